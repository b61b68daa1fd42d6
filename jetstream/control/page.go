package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// page cuts a sorted list: what lies behind the cursor, at most limit items and no more bytes than an answer may have. cursor names
// an item's place in the order, so that a page goes on at the right place when items came and went meanwhile.
func page[T any](items []T, limit, maxBytes int, behind func(T) bool, cursor func(T) string) (part []T, next string, err error) {
	first := slices.IndexFunc(items, behind)
	if first < 0 {
		return []T{}, "", nil
	}
	items = items[first:]
	size, n := 0, 0
	for n < len(items) && n < limit {
		b, err := json.Marshal(items[n])
		if err != nil {
			return nil, "", fmt.Errorf("encoding a list: %w", err)
		}
		if size += len(b) + 1; size > maxBytes && n > 0 {
			break
		}
		n++
	}
	if n < len(items) {
		next = cursor(items[n-1])
	}
	return items[:n], next, nil
}

// pageBytes is what the items of a list may take of an answer.
func (s *Service) pageBytes() int { return s.maxAnswer() - 4096 }

func (s *Service) jobs(ctx context.Context, t target, in *PageRequest) (JobPage, error) {
	all, err := s.listJobs(ctx, t)
	if err != nil {
		return JobPage{}, err
	}
	name := func(j processor.JobReport) string { return j.Tenant + "/" + j.Job }
	slices.SortFunc(all, func(a, b processor.JobReport) int { return cmp.Compare(name(a), name(b)) })
	part, next, err := page(all, in.Limit, s.pageBytes(), func(j processor.JobReport) bool { return name(j) > in.After }, name)
	return JobPage{part, next}, err
}

func (s *Service) listJobs(ctx context.Context, t target) ([]processor.JobReport, error) {
	if t.tenant == none {
		return s.cfg.Control.Jobs(ctx, "")
	}
	all, err := s.cfg.Control.Jobs(ctx, tenants.ID(t.tenant))
	if err == nil && len(all) == 0 {
		err = refuse(processor.ReasonUnknownTenant, "no job of tenant %s is known: deploy one, or ask %s%s.%s.tenants which there are", t.tenant, prefix, none, none)
	}
	return all, err
}

func (s *Service) tenants(ctx context.Context, _ target, in *PageRequest) (TenantPage, error) {
	jobs, err := s.cfg.Control.Jobs(ctx, "")
	if err != nil {
		return TenantPage{}, err
	}
	counts := map[string]*TenantReport{}
	for _, j := range jobs {
		r := counts[j.Tenant]
		if r == nil {
			r = &TenantReport{Tenant: j.Tenant}
			counts[j.Tenant] = r
		}
		r.Jobs++
		if j.State == processor.JobRunning {
			r.Running++
		}
	}
	all := make([]TenantReport, 0, len(counts))
	for _, r := range counts {
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b TenantReport) int { return cmp.Compare(a.Tenant, b.Tenant) })
	part, next, err := page(all, in.Limit, s.pageBytes(), func(r TenantReport) bool { return r.Tenant > in.After }, func(r TenantReport) string { return r.Tenant })
	return TenantPage{part, next}, err
}

func (s *Service) checkpoints(ctx context.Context, t target, in *PageRequest) (CheckpointPage, error) {
	after, state, err := cutCursor(in.After)
	if err != nil {
		return CheckpointPage{}, err
	}
	all, err := s.cfg.Control.Checkpoints(ctx, t.id())
	var elsewhere *processor.NotOwnerError
	if err != nil && !errors.As(err, &elsewhere) {
		return CheckpointPage{}, err
	}
	order := func(a, b processor.CheckpointReport) int {
		return cmp.Or(cmp.Compare(b.Checkpoint, a.Checkpoint), cmp.Compare(a.State, b.State))
	}
	slices.SortStableFunc(all, order)
	last := processor.CheckpointReport{Checkpoint: after, State: state}
	part, next, err := page(all, in.Limit, s.pageBytes(), func(c processor.CheckpointReport) bool { return in.After == "" || order(last, c) < 0 },
		func(c processor.CheckpointReport) string { return makeCursor(c.Checkpoint, c.State) })
	if err == nil && elsewhere != nil {
		err = elsewhere // what the records say, in case the owner does not answer
	}
	return CheckpointPage{part, next}, err
}

func (s *Service) savepoints(ctx context.Context, t target, in *PageRequest) (SavepointPage, error) {
	after, name, err := cutCursor(in.After)
	if err != nil {
		return SavepointPage{}, err
	}
	all, err := s.cfg.Control.Savepoints(ctx, t.id())
	if err != nil {
		return SavepointPage{}, err
	}
	created := func(r processor.SavepointReport) uint64 { return uint64(r.Created.UnixNano()) }
	slices.SortStableFunc(all, func(a, b processor.SavepointReport) int {
		return cmp.Or(cmp.Compare(created(b), created(a)), cmp.Compare(a.Name, b.Name))
	})
	behind := func(r processor.SavepointReport) bool {
		return in.After == "" || cmp.Or(cmp.Compare(after, created(r)), cmp.Compare(r.Name, name)) > 0
	}
	part, next, err := page(all, in.Limit, s.pageBytes(), behind,
		func(r processor.SavepointReport) string { return makeCursor(created(r), r.Name) })
	return SavepointPage{part, next}, err
}

// A cursor of a list that is newest first is a number and a name: "17:completed".
func makeCursor(n uint64, name string) string { return strconv.FormatUint(n, 10) + ":" + name }

func cutCursor(after string) (uint64, string, error) {
	if after == "" {
		return 0, "", nil
	}
	number, name, ok := strings.Cut(after, ":")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil {
		return 0, "", refuse(processor.ReasonBadRequest, `after is %q: give the "next" of the answer before`, tenants.Printable(after))
	}
	return n, name, nil
}
