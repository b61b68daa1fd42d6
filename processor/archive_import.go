package processor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// ImportSpec says where a savepoint goes. Zero fields take what the archive says.
type ImportSpec struct {
	Job  tenants.JobID // tenant and name; either may be empty
	Name string        // of the savepoint
	// Streams names the stream of a source where it is not the one it was exported with, by source name.
	Streams map[string]string
	// Positions says behind which sequence a source goes on, by source name, and is taken without proof. 0: at the beginning.
	Positions map[string]uint64
	Progress  Progress
}

// ImportReport says what an import did.
type ImportReport struct {
	Savepoint SavepointReport `json:"savepoint"`
	Sources   []SourceImport  `json:"sources"`
	Objects   int             `json:"objects"`
	Skipped   int             `json:"skipped"` // objects that an earlier try had stored already
	Existed   bool            `json:"existed"` // an earlier import of this file had completed the savepoint
}

// ImportRefusedError says that the position of at least one source cannot be told. Nothing was written.
type ImportRefusedError struct{ Sources []SourceImport }

func (e *ImportRefusedError) Error() string {
	var b strings.Builder
	b.WriteString("it cannot be told where the job would go on:")
	for _, s := range e.Sources {
		if s.How == PositionRefused {
			fmt.Fprintf(&b, " source %s: %s;", s.Source, s.Detail)
		}
	}
	return strings.TrimSuffix(b.String(), ";")
}

// ImportSavepoint stores a checked archive as a savepoint. Nothing is written unless every source's position is kept, mapped or given,
// see SourceImport. An import that fails half-way goes on where it stopped when it is called again with the same file and
// target: what lies there is verified and not stored twice; what nobody comes back for is removed by the job's search for orphans, or by
// deleting the savepoint. A *barriers.SavepointExistsError says that the name is taken by another savepoint.
func ImportSavepoint(ctx context.Context, broker ArchiveBroker, a *Archive, spec ImportSpec) (*ImportReport, error) {
	setDefault(&spec.Job.Tenant, tenants.ID(a.Manifest.Tenant))
	setDefault(&spec.Job.Name, a.Manifest.Job)
	setDefault(&spec.Name, a.Manifest.Savepoint)
	if spec.Progress == nil {
		spec.Progress = func(int64, int64) {}
	}
	if err := errors.Join(spec.Job.Validate(), tenants.ValidateName("savepoint", spec.Name)); err != nil {
		return nil, fmt.Errorf("importing a savepoint: %w", err)
	}
	im := &importer{broker: broker, archive: a, spec: spec}
	if err := im.run(ctx); err != nil {
		return &im.report, fmt.Errorf("importing savepoint %s of job %s: %w", spec.Name, spec.Job, err)
	}
	return &im.report, nil
}

// importer takes one archive in.
type importer struct {
	broker  ArchiveBroker
	archive *Archive
	spec    ImportSpec
	report  ImportReport
	lineage string // of the tries that go on where another stopped: in the names of their objects
	done    int64
}

func (im *importer) run(ctx context.Context) error {
	m := im.archive.Manifest
	var err error
	if m.Sources, err = im.place(ctx); err != nil {
		return err
	}
	from := fmt.Sprintf("%s/%s/%s", m.Tenant, m.Job, m.Savepoint)
	m.Tenant, m.Job, m.Savepoint = string(im.spec.Job.Tenant), im.spec.Job.Name, im.spec.Name
	m.Origin = fmt.Sprintf("%s, exported %s by weir %s", from, im.archive.Exported.Format(time.RFC3339), im.archive.Weir)
	m.Weir, m.Mark, m.Owed, m.Sinks = Version, nil, nil, nil
	m.Request = "import " + barriers.Digest([]byte(im.archive.digest+" "+im.spec.Job.String()+" "+im.spec.Name))
	done, err := im.reserve(ctx, &m)
	if err != nil {
		return err
	}
	if done != nil {
		im.report.Savepoint, im.report.Existed = savepointReport(done), true
		return nil
	}
	m.Operators = slices.Clone(m.Operators)
	i := 0
	for n := range m.Operators {
		op := &m.Operators[n]
		refs := op.Chain
		op.Chain = nil
		for range refs {
			chain, err := im.object(ctx, op.Name, i)
			if err != nil {
				return fmt.Errorf("%w: call again to go on, or delete the savepoint", err)
			}
			op.Chain = append(op.Chain, chain...)
			i++
		}
	}
	is, err := barriers.WriteSavepoint(askOf(ctx, im.broker, im.spec.Job), &m)
	if err != nil {
		return err
	}
	im.report.Savepoint = savepointReport(is)
	return nil
}

// place finds every source's position.
func (im *importer) place(ctx context.Context) ([]barriers.Source, error) {
	mapper := &streamMapper{broker: im.broker, from: tenants.ID(im.archive.Manifest.Tenant), job: im.spec.Job, spec: &im.spec}
	known := map[string]bool{}
	var out []barriers.Source
	refused := false
	for _, src := range im.archive.Manifest.Sources {
		known[src.Name] = true
		placed, how, err := mapper.place(ctx, src)
		if err != nil {
			return nil, err
		}
		out = append(out, placed)
		im.report.Sources = append(im.report.Sources, how)
		refused = refused || how.How == PositionRefused
	}
	for _, names := range [][]string{sortedKeys(im.spec.Streams), sortedKeys(im.spec.Positions)} {
		for _, name := range names {
			if !known[name] {
				return nil, fmt.Errorf("the savepoint has no source %q, for which a stream or position is given", name)
			}
		}
	}
	if refused {
		return nil, &ImportRefusedError{Sources: im.report.Sources}
	}
	return out, nil
}

// reserve takes the name, or takes over what an earlier try of the same import has left.
func (im *importer) reserve(ctx context.Context, m *barriers.Manifest) (*barriers.Manifest, error) {
	nonce := rand.Text()
	owner := func(before *barriers.Reservation) string {
		im.lineage = nonce
		if before != nil {
			im.lineage, _, _ = strings.Cut(before.Owner, ".")
		}
		m.Owner = im.lineage + "." + nonce
		return m.Owner
	}
	return barriers.ResumeSavepoint(askOf(ctx, im.broker, im.spec.Job), barriers.Reservation{
		Tenant: m.Tenant, Job: m.Job, Savepoint: m.Savepoint, Request: m.Request,
	}, owner)
}

// object stores the i-th object under the target's identity, or finds it stored by an earlier try. Identical bytes in give identical
// bytes out, so its name and digest are known beforehand.
func (im *importer) object(ctx context.Context, operator string, i int) ([]barriers.Object, error) {
	data, err := im.archive.object(i)
	if err != nil {
		return nil, err
	}
	job, from := im.spec.Job, &im.archive.Manifest
	ref := im.archive.refs[i]
	encoded := []state.EncodedObject{{Data: data, FirstGroup: ref.FirstGroup, LastGroup: ref.LastGroup, Base: true}}
	if string(job.Tenant) != from.Tenant || job.Name != from.Job {
		// An entry is in one object only: each can be written anew by itself.
		encoded, err = state.MergeAs([][]byte{data}, state.Identity{Tenant: string(job.Tenant), Job: job.Name, Operator: operator}, 0)
		if err != nil {
			return nil, err
		}
	}
	var out []barriers.Object
	for n, e := range encoded {
		name := fmt.Sprintf("%s%s-%d.%d-%s", barriers.SavepointPrefix(job.Name, im.spec.Name), operator, i, n, im.lineage)
		obj, err := im.put(ctx, name, e.Data)
		if err != nil {
			return nil, err
		}
		obj.Base, obj.Checkpoint, obj.FirstGroup, obj.LastGroup = true, from.Checkpoint, e.FirstGroup, e.LastGroup
		out = append(out, obj)
	}
	im.done += ref.Bytes
	im.report.Objects++
	im.spec.Progress(im.done, im.archive.Bytes)
	return out, nil
}

func (im *importer) put(ctx context.Context, name string, data []byte) (barriers.Object, error) {
	obj, found, err := im.broker.FindObject(ctx, im.spec.Job.Tenant, name)
	if err != nil {
		return obj, fmt.Errorf("looking for object %s: %w", name, err)
	}
	if found && obj.Bytes == int64(len(data)) && obj.Digest == barriers.Digest(data) {
		_, err := im.broker.Get(ctx, im.spec.Job.Tenant, obj) // reads and verifies all of it
		if err == nil {
			im.report.Skipped++
			return obj, nil
		}
		if !errors.As(err, new(*CorruptError)) && !errors.Is(err, ErrObjectMissing) {
			return obj, fmt.Errorf("verifying object %s: %w", name, err)
		}
	}
	if found { // damaged, or written by another version of this program
		name += "." + rand.Text()
	}
	obj, err = im.broker.Put(ctx, im.spec.Job.Tenant, name, data)
	if err != nil {
		return obj, fmt.Errorf("uploading object %s: %w", name, err)
	}
	return obj, nil
}
