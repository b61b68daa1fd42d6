package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
)

// Check implements processor.Transport.
func (b *Broker) Check(ctx context.Context, needs processor.Needs) ([]processor.Finding, error) {
	r := b.resolver(needs)
	r.dry = true
	_, err := r.resolve(ctx)
	return r.findings, asTransient(ctx, err)
}

// Bind implements processor.Transport. Its error names every problem and is terminal, unless the server did not answer. Nothing
// is created before everything that is there was found good.
func (b *Broker) Bind(ctx context.Context, needs processor.Needs) (processor.Bindings, error) {
	r := b.resolver(needs)
	r.dry = true
	bindings, err := r.resolve(ctx)
	if err == nil {
		r.dry, r.findings = false, nil // what the first pass has learned still holds
		bindings, err = r.resolve(ctx)
	}
	return bindings, asTransient(ctx, err)
}

func (b *Broker) resolver(needs processor.Needs) *resolver {
	return &resolver{b: b, needs: needs, infos: map[string]*js.StreamInfo{}, names: map[string][]string{}}
}

// resolver answers one job's needs.
type resolver struct {
	b        *Broker
	needs    processor.Needs
	dry      bool
	infos    map[string]*js.StreamInfo
	names    map[string][]string // streams by the subject they were asked for
	findings []processor.Finding
}

// need is one source or sink while it is resolved.
type need struct {
	subject  string // "source lines"
	stream   string // as asked for; empty: find it
	captures []string
	create   *js.StreamConfig // what Weir would create; nil: nothing
	hint     string           // the nats command where nothing captures the subjects and Weir creates nothing
}

func (r *resolver) resolve(ctx context.Context) (processor.Bindings, error) {
	var out processor.Bindings
	if err := r.needs.Job.Validate(); err != nil {
		return out, processor.Terminal(fmt.Errorf("bind job: %w", err))
	}
	for _, s := range r.needs.Sources {
		binding, err := r.source(ctx, s)
		if err != nil {
			return out, fmt.Errorf("bind job %s: source %s: %w", r.needs.Job, s.Source, err)
		}
		out.Sources = append(out.Sources, binding)
	}
	for _, s := range r.needs.Sinks {
		binding, err := r.sink(ctx, s)
		if err != nil {
			return out, fmt.Errorf("bind job %s: sink %s: %w", r.needs.Job, s.Sink, err)
		}
		out.Sinks = append(out.Sinks, binding)
	}
	for _, t := range r.needs.Tables {
		binding, err := r.table(ctx, t)
		if err != nil {
			return out, fmt.Errorf("bind job %s: table of operator %s: %w", r.needs.Job, t.Operator, err)
		}
		out.Tables = append(out.Tables, binding)
	}
	var errs []error
	for _, f := range r.findings {
		if f.Needs == "" {
			continue
		}
		err := fmt.Errorf("%s: stream %s: has %s, needs %s", f.Subject, f.Stream, f.Has, f.Needs)
		if f.Stream == "" {
			err = fmt.Errorf("%s: %s, needs %s", f.Subject, f.Has, f.Needs)
		}
		if f.Fix != "" {
			err = fmt.Errorf("%w: %s", err, f.Fix)
		}
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return processor.Bindings{}, processor.Terminal(fmt.Errorf("bind job %s: %w", r.needs.Job, errors.Join(errs...)))
	}
	return out, nil
}

func (r *resolver) find(f processor.Finding) { r.findings = append(r.findings, f) }

// locate finds or creates the stream of a need. nil without an error: a finding says why there is none, or it would be created.
func (r *resolver) locate(ctx context.Context, n need) (*js.StreamInfo, error) {
	name := n.stream
	if name == "" {
		names, err := r.capturing(ctx, n.captures)
		if err != nil {
			return nil, err
		}
		switch {
		case len(names) > 1:
			r.find(processor.Finding{Subject: n.subject, Has: fmt.Sprintf("streams %s all capture some of %s", strings.Join(names, ", "), strings.Join(n.captures, ", ")),
				Needs: "one stream: name it in the topology, or narrow the filter"})
			return nil, nil
		case len(names) == 1:
			name = names[0]
		case n.create == nil:
			r.find(processor.Finding{Subject: n.subject, Has: "no stream captures " + strings.Join(n.captures, ", "), Needs: "one that does", Fix: n.hint})
			return nil, nil
		default:
			name = n.create.Name
			if clash, err := r.clash(ctx, n); clash || err != nil {
				return nil, err
			}
		}
	}
	if info := r.infos[name]; info != nil {
		return info, nil
	}
	info, err := r.b.streamInfo(ctx, name)
	missing := apiCode(err) == codeStreamNotFound
	switch {
	case missing && n.create != nil && r.dry:
		r.find(processor.Finding{Subject: n.subject, Stream: name, Has: "no such stream, Weir will create it for " + strings.Join(n.create.Subjects, ", "), Created: true})
		return nil, nil
	case missing && n.create != nil:
		info, err = r.b.createStream(ctx, *n.create)
		clear(r.names)
	case missing:
		r.find(processor.Finding{Subject: n.subject, Stream: name, Has: "no such stream", Needs: "it", Fix: n.hint})
		return nil, nil
	}
	if errors.Is(err, errInvalid) {
		return nil, processor.Terminal(err)
	}
	if err != nil {
		return nil, err
	}
	r.infos[name] = info
	return info, nil
}

// capturing lists the streams whose subjects overlap one of the filters.
func (r *resolver) capturing(ctx context.Context, filters []string) ([]string, error) {
	var all []string
	for _, f := range filters {
		if names, known := r.names[f]; known {
			all = append(all, names...)
			continue
		}
		req := struct {
			Subject string `json:"subject"`
		}{f}
		var resp struct {
			Streams []string `json:"streams"`
		}
		if err := r.b.api(ctx, "STREAM.NAMES", req, &resp); err != nil {
			return nil, err
		}
		r.names[f] = resp.Streams
		all = append(all, resp.Streams...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// clash finds that the stream Weir would create overlaps others, though none of them captures what is needed.
func (r *resolver) clash(ctx context.Context, n need) (bool, error) {
	names, err := r.capturing(ctx, n.create.Subjects)
	if err != nil {
		return false, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == n.create.Name })
	if len(names) == 0 {
		return false, nil
	}
	r.find(processor.Finding{Subject: n.subject, Has: "no stream captures " + strings.Join(n.captures, ", "),
		Needs: fmt.Sprintf("one that does; Weir cannot create %s for %s beside %s, which overlap it",
			n.create.Name, strings.Join(n.create.Subjects, ", "), strings.Join(names, ", ")),
		Fix: fmt.Sprintf("nats stream add NAME --subjects '%s'%s --defaults", strings.Join(n.captures, "' --subjects '"), outputFlags)})
	return true, nil
}

// outputFlags let a stream hold exactly-once output. A hint for a source has them too: input and output of a tenant lie in one
// stream in the default layout, and two commands for one stream would contradict each other.
const outputFlags = " --allow-batch --allow-msg-ttl --discard new"

// hint is the command that creates a stream for a tenant's subjects.
func (r *resolver) hint() string {
	cfg := r.b.tenantStream(r.needs.Job.Tenant)
	return fmt.Sprintf("nats stream add %s --subjects '%s'%s --defaults", cfg.Name, cfg.Subjects[0], outputFlags)
}

func (r *resolver) createTenantStream() *js.StreamConfig {
	if !r.b.cfg.CreateStreams {
		return nil
	}
	cfg := r.b.tenantStream(r.needs.Job.Tenant)
	return &cfg
}

func (r *resolver) source(ctx context.Context, s processor.SourceNeed) (processor.SourceBinding, error) {
	if s.Bucket != "" {
		return r.rules(ctx, s)
	}
	job := r.needs.Job
	if err := s.Filter.Validate(); err != nil {
		return processor.SourceBinding{}, processor.Terminal(err)
	}
	filter := r.b.cfg.Namespace.Absolute(job.Tenant, string(s.Filter))
	binding := processor.SourceBinding{Source: s.Source, Filter: filter}
	n := need{subject: "source " + s.Source, stream: s.Stream, captures: []string{filter}, hint: r.hint()}
	if s.Stream == "" {
		n.create = r.createTenantStream()
	}
	info, err := r.locate(ctx, n)
	if info == nil || err != nil {
		return binding, err
	}
	c := checker{r: r, subject: n.subject, info: info}
	c.retention("an input must keep its messages until every job has read them")
	if !anyOverlaps(info.Config.Subjects, filter) && info.Config.Mirror == nil && len(info.Config.Sources) == 0 {
		c.need("subjects "+strings.Join(info.Config.Subjects, ", "), "subjects that cover "+filter, c.edit("--subjects", append(slices.Clone(info.Config.Subjects), filter)...))
	}
	barrier := r.b.cfg.Namespace.Barrier(job, s.Source, s.Filter)
	inStream := owned(info) || s.InStream
	switch {
	case !inStream:
	case info.Config.Mirror != nil || info.Config.Sealed || !anyCovers(info.Config.Subjects, barrier):
		if s.InStream {
			c.need("no way in for barriers on "+barrier, "subjects that cover it on a stream that takes messages, or barriers at the reader", "")
		}
	default:
		binding.Barrier = barrier
	}
	c.fine()
	binding.Stream, binding.Created = info.Config.Name, info.Created.UnixNano()
	binding.FirstSeq, binding.LastSeq = info.State.FirstSeq, info.State.LastSeq
	return binding, nil
}
