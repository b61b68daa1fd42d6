package barriers

import (
	"errors"
	"fmt"
)

// validate bounds and checks everything in a manifest that code relies on later.
func (m *Manifest) validate() error {
	if err := checkText("tenant", m.Tenant, "job", m.Job, "owner", m.Owner); err != nil {
		return err
	}
	switch m.Kind {
	case KindCheckpoint, KindSavepoint, KindStart:
	default:
		return fmt.Errorf("kind %.32q is not known", m.Kind)
	}
	if m.Checkpoint == 0 || m.Epoch == 0 {
		return errors.New("checkpoint or epoch is 0: both begin with 1")
	}
	if m.Parallelism < 0 || m.KeyGroups < 0 || m.Parallelism > 1<<16 || m.KeyGroups > 1<<16 {
		return fmt.Errorf("parallelism %d or key groups %d are out of range", m.Parallelism, m.KeyGroups)
	}
	for _, n := range []int{len(m.Sources), len(m.Operators), len(m.Sinks), len(m.Params), len(m.Choices)} {
		if n > maxParts {
			return fmt.Errorf("%d sources, operators, sinks, parameters or choices, at most %d of each are allowed", n, maxParts)
		}
	}
	if err := m.validateKind(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for i := range m.Sources {
		if err := unique(seen, "source", m.Sources[i].Name); err != nil {
			return err
		}
		if err := m.Sources[i].validate(); err != nil {
			return fmt.Errorf("source %.64q: %w", m.Sources[i].Name, err)
		}
	}
	for i := range m.Operators {
		if err := unique(seen, "operator", m.Operators[i].Name); err != nil {
			return err
		}
		if err := m.Operators[i].validate(m.KeyGroups); err != nil {
			return fmt.Errorf("operator %.64q: %w", m.Operators[i].Name, err)
		}
	}
	for i := range m.Sinks {
		if err := unique(seen, "sink", m.Sinks[i].Name); err != nil {
			return err
		}
		if err := m.Sinks[i].validate(); err != nil {
			return fmt.Errorf("sink %.64q: %w", m.Sinks[i].Name, err)
		}
	}
	return nil
}

// MaxConfigBytes bounds a manifest's configuration, JSON.
const MaxConfigBytes = 256 << 10

// validateKind checks what came with version 2, and what distinguishes the kinds. Version 1 was written for checkpoints only.
func (m *Manifest) validateKind() error {
	for _, text := range []string{m.RestoredFrom, m.Request, m.TopologyName, m.Origin} {
		if len(text) > maxTextBytes {
			return fmt.Errorf("restored_from, request, topology_name or origin has %d bytes, at most %d are allowed", len(text), maxTextBytes)
		}
	}
	if len(m.Config) > MaxConfigBytes {
		return fmt.Errorf("the configuration has %d bytes, at most %d are allowed", len(m.Config), MaxConfigBytes)
	}
	if len(m.Config) > 0 && m.Config[0] != '{' {
		return errors.New("the configuration is no JSON object")
	}
	if m.Mark != nil {
		if err := m.Mark.validate(); err != nil {
			return err
		}
	}
	if len(m.Owed) > maxParts {
		return fmt.Errorf("%d savepoints are owed, at most %d are allowed", len(m.Owed), maxParts)
	}
	for _, o := range m.Owed {
		if err := errors.Join(checkSavepointName(o.Savepoint), o.Mark.validate()); err != nil {
			return fmt.Errorf("owed savepoint %.64q: %w", o.Savepoint, err)
		}
		if o.Checkpoint == 0 || o.Checkpoint > m.Checkpoint {
			return fmt.Errorf("owed savepoint %.64q of checkpoint %d: this is checkpoint %d", o.Savepoint, o.Checkpoint, m.Checkpoint)
		}
	}
	if m.Kind == KindSavepoint {
		if err := checkSavepointName(m.Savepoint); err != nil {
			return err
		}
	} else if m.Savepoint != "" {
		return fmt.Errorf("a %s with savepoint name %.64q", m.Kind, m.Savepoint)
	}
	if m.Kind == KindCheckpoint || hooks.startOwes {
		return nil
	}
	for i := range m.Sinks {
		if m.Sinks[i].Total > 0 || len(m.Sinks[i].Pending) > 0 {
			return fmt.Errorf("sink %.64q: a %s has no pending output", m.Sinks[i].Name, m.Kind)
		}
	}
	return nil
}

func (k *Mark) validate() error {
	if err := checkText("source", k.Source, "stream", k.Stream); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	if k.Seq == 0 {
		return errors.New("mark: sequence is 0: sequences begin with 1")
	}
	return nil
}

// maxSavepointName bounds a savepoint's name, in bytes.
const maxSavepointName = 48

// checkSavepointName keeps everything out of keys and object names that does not belong there.
func checkSavepointName(name string) error {
	if name == "" || len(name) > maxSavepointName {
		return fmt.Errorf("savepoint name %.64q: it must have 1 to %d bytes", name, maxSavepointName)
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (i == 0 || c != '_' && c != '-') {
			return fmt.Errorf("savepoint name %.64q: use a-z, 0-9, _ and -, beginning with a letter or digit", name)
		}
	}
	return nil
}

func unique(seen map[string]bool, kind, name string) error {
	if err := checkText(kind, name); err != nil {
		return err
	}
	key := kind + "/" + name
	if seen[key] {
		return fmt.Errorf("%s %.64q comes twice", kind, name)
	}
	seen[key] = true
	return nil
}

func (s *Source) validate() error {
	if len(s.Tail) > maxTail {
		return fmt.Errorf("%d fingerprints, at most %d are allowed", len(s.Tail), maxTail)
	}
	last := uint64(0)
	for _, f := range s.Tail {
		if f.Seq <= last || f.Seq > s.Position {
			return fmt.Errorf("fingerprint of sequence %d is out of order or behind position %d", f.Seq, s.Position)
		}
		last = f.Seq
	}
	return nil
}

func (o *Operator) validate(keyGroups int) error {
	if len(o.States) > maxParts || len(o.Chain) > maxChain {
		return fmt.Errorf("%d states or %d objects are too many", len(o.States), len(o.Chain))
	}
	for i := range o.Chain {
		if err := o.Chain[i].validate(); err != nil {
			return err
		}
		if keyGroups > 0 && o.Chain[i].LastGroup >= keyGroups {
			return fmt.Errorf("object %.80q ends with key group %d of %d", o.Chain[i].Name, o.Chain[i].LastGroup, keyGroups)
		}
	}
	return nil
}

func (o *Object) validate() error {
	if err := checkText("bucket", o.Bucket, "object", o.Name, "digest", o.Digest); err != nil {
		return err
	}
	if o.Bytes < 0 || o.Subtask < 0 || o.FirstGroup < 0 || o.LastGroup < o.FirstGroup {
		return fmt.Errorf("object %.80q: %d bytes, subtask %d, key groups %d to %d", o.Name, o.Bytes, o.Subtask, o.FirstGroup, o.LastGroup)
	}
	return nil
}

func (s *Sink) validate() error {
	if len(s.Pending) > maxChain {
		return fmt.Errorf("%d objects of pending output, at most %d are allowed", len(s.Pending), maxChain)
	}
	var messages uint64
	for i := range s.Pending {
		if err := s.Pending[i].validate(); err != nil {
			return err
		}
		if messages += s.Pending[i].Messages; messages > s.Total {
			break
		}
	}
	if messages != s.Total {
		return fmt.Errorf("pending objects hold %d messages, the total is %d", messages, s.Total)
	}
	if s.Seen.Released > s.Seen.Total {
		return fmt.Errorf("marker: %d messages released of %d", s.Seen.Released, s.Seen.Total)
	}
	return nil
}
