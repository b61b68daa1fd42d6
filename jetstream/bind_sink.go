package jetstream

import (
	"context"
	"fmt"
	"slices"
	"strings"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// sinkPlan is where a sink's messages and its marker go.
type sinkPlan struct {
	need
	prefix string
	marker string
}

func (r *resolver) plan(s processor.SinkNeed) (sinkPlan, error) {
	job, ns := r.needs.Job, r.b.cfg.Namespace
	p := sinkPlan{need: need{subject: "sink " + s.Sink, stream: s.Stream}}
	switch {
	case s.DeadLetters:
		cfg := r.b.deadLetterStream()
		p.need.stream, p.need.create = cfg.Name, &cfg
		p.prefix = deadLetterPrefix + string(job.Tenant) + "."
		p.marker = deadLetterPrefix + tenants.Reserved + "." + string(job.Tenant) + "." + job.Name
		p.captures = []string{p.prefix + job.Name}
		p.hint = fmt.Sprintf("nats stream add %s --subjects '%s>' --allow-batch --allow-msg-ttl --defaults", cfg.Name, deadLetterPrefix)
	case s.Bucket != "":
		if !validBucket(s.Bucket) {
			return p, processor.Terminal(fmt.Errorf("%w: %q is not a bucket name", errInvalid, tenants.Printable(s.Bucket)))
		}
		cfg := r.b.outputBucket(s.Bucket)
		p.need.stream, p.need.create = cfg.Name, &cfg
		root := "$KV." + s.Bucket + "."
		p.prefix = root + s.BucketPrefix(job)
		p.marker = root + tenants.Reserved + "." + string(job.Tenant) + "." + job.Name + ".sink." + s.Sink
		p.captures = []string{p.prefix + ">"}
		p.hint = "nats kv add " + s.Bucket
	default:
		p.prefix = s.Prefix(job, ns)
		p.marker = s.MarkerSubject(job, ns)
		p.hint = r.hint()
		if s.Stream == "" {
			p.need.create = r.createTenantStream()
		}
		for _, f := range s.Subjects {
			if err := f.Validate(); err != nil {
				return p, processor.Terminal(err)
			}
			p.captures = append(p.captures, p.prefix+string(f))
		}
	}
	if err := checkMarker(p.marker); err != nil {
		return p, processor.Terminal(err)
	}
	if len(p.captures) == 0 {
		// Nothing is known of what it publishes: the stream that takes the marker.
		p.captures = []string{p.marker}
	}
	return p, nil
}

// checkMarker accepts a literal subject.
func checkMarker(subject string) error {
	for t := range strings.SplitSeq(subject, ".") {
		if t == tenants.Reserved {
			continue
		}
		if err := tenants.ValidateSubject(t); err != nil {
			return fmt.Errorf("%w: marker subject %q: %w", errInvalid, tenants.Printable(subject), err)
		}
	}
	if len(subject) > tenants.MaxSubjectLen {
		return fmt.Errorf("%w: marker subject %q has %d bytes, at most %d are allowed", errInvalid, tenants.Printable(subject), len(subject), tenants.MaxSubjectLen)
	}
	return nil
}

func validBucket(name string) bool {
	return name != "" && len(name) <= 128 && strings.IndexFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-'
	}) < 0
}

func (r *resolver) sink(ctx context.Context, s processor.SinkNeed) (processor.SinkBinding, error) {
	p, err := r.plan(s)
	if err != nil {
		return processor.SinkBinding{}, err
	}
	binding := processor.SinkBinding{Sink: s.Sink, Prefix: p.prefix, MaxPart: r.b.cfg.MaxPart}
	if !s.AtLeastOnce {
		binding.Marker = p.marker
	}
	info, err := r.locate(ctx, p.need)
	if info == nil || err != nil {
		return binding, err
	}
	c := checker{r: r, subject: p.subject, info: info}
	if info, err = r.repair(ctx, &c, s); err != nil {
		return binding, err
	}
	c.captures(s, p)
	c.writable()
	if !s.AtLeastOnce {
		c.retention("the marker must not be removed when it was delivered")
		c.exactlyOnce(s, p)
	}
	c.fine()
	conn, err := r.b.conn(ctx, Output)
	if err != nil {
		return binding, err
	}
	binding.Stream, binding.Created, binding.Captures = info.Config.Name, info.Created.UnixNano(), info.Config.Subjects
	binding.MaxMsg = int(conn.nc.MaxPayload())
	if limit := int(info.Config.MaxMsgSize); limit > 0 {
		binding.MaxMsg = min(binding.MaxMsg, limit)
	}
	if r.dry || c.bad || s.AtLeastOnce {
		return binding, nil
	}
	if binding.MaxPart, err = r.b.maxPart(ctx, info.Config.Name, p.marker); err != nil {
		return binding, err
	}
	r.b.learn(info, binding.MaxPart)
	return binding, nil
}

// repair gives a stream of Weir's own what it lacks; a dry run only looks.
func (r *resolver) repair(ctx context.Context, c *checker, s processor.SinkNeed) (*js.StreamInfo, error) {
	cfg := &c.info.Config
	if !owned(c.info) || s.AtLeastOnce || cfg.AllowAtomicPublish && cfg.AllowMsgTTL {
		return c.info, nil
	}
	if r.dry {
		r.find(processor.Finding{Subject: c.subject, Stream: cfg.Name, Has: "a stream of Weir's own that lacks atomic batches or TTLs, Weir will add them", Created: true})
		repaired := *c.info
		repaired.Config.AllowAtomicPublish, repaired.Config.AllowMsgTTL = true, true
		c.info = &repaired
		return c.info, nil
	}
	info, err := r.b.complete(ctx, c.info, func(cfg *js.StreamConfig) { cfg.AllowAtomicPublish, cfg.AllowMsgTTL = true, true })
	if err != nil {
		return nil, err
	}
	c.info, r.infos[info.Config.Name] = info, info
	return info, nil
}

// checker notes what one stream lacks.
type checker struct {
	r       *resolver
	subject string
	info    *js.StreamInfo
	bad     bool
}

func (c *checker) need(has, needs, fix string) {
	c.bad = true
	c.r.find(processor.Finding{Subject: c.subject, Stream: c.info.Config.Name, Has: has, Needs: needs, Fix: fix})
}

// fine notes that all is well, if it is.
func (c *checker) fine() {
	if c.bad {
		return
	}
	cfg := c.info.Config
	has := fmt.Sprintf("%s storage, %d replica(s), subjects %s", strings.ToLower(cfg.Storage.String()), cfg.Replicas, strings.Join(cfg.Subjects, ", "))
	c.r.find(processor.Finding{Subject: c.subject, Stream: cfg.Name, Has: has})
}

// edit is the nats command that changes the stream.
func (c *checker) edit(flag string, values ...string) string {
	line := "nats stream edit " + c.info.Config.Name
	if len(values) == 0 {
		return line + " " + flag
	}
	for _, v := range values {
		line += " " + flag + " '" + v + "'"
	}
	return line
}

func (c *checker) retention(why string) {
	switch c.info.Config.Retention {
	case js.InterestPolicy:
		c.need("interest retention, which removes a message when it was delivered", "limits retention: "+why, c.edit("--retention limits"))
	case js.WorkQueuePolicy:
		c.need("work-queue retention, which cannot be changed later",
			"limits retention: "+why+"; make a second stream that sources from this one, or a new one", "")
	}
}

// captures checks that what the sink publishes goes into this stream.
func (c *checker) captures(s processor.SinkNeed, p sinkPlan) {
	cfg := c.info.Config
	for _, subject := range p.captures {
		if subject != p.marker && !anyCovers(cfg.Subjects, subject) {
			c.need("subjects "+strings.Join(cfg.Subjects, ", "), "subjects that cover "+subject, c.edit("--subjects", append(slices.Clone(cfg.Subjects), subject)...))
		}
	}
	if !s.AtLeastOnce && !anyCovers(cfg.Subjects, p.marker) {
		c.need("subjects "+strings.Join(cfg.Subjects, ", "), "a subject that captures the marker "+p.marker+", or another marker subject for this sink",
			c.edit("--subjects", append(slices.Clone(cfg.Subjects), p.marker)...))
	}
}

func (c *checker) writable() {
	cfg := c.info.Config
	if cfg.Mirror != nil {
		c.need("a mirror of "+cfg.Mirror.Name, "a stream that takes messages: a mirror does not", "")
	}
	if cfg.Sealed {
		c.need("a sealed stream", "a stream that takes messages; sealing cannot be undone", "")
	}
	if cfg.NoAck {
		c.need("no acknowledgements", "acknowledgements: without them nobody knows what was stored", c.edit("--ack"))
	}
	if cfg.AllowMsgCounter {
		c.need("message counters", "a stream without counters, which refuse other messages", "")
	}
}

// exactlyOnce checks that batches are possible and that nothing removes the marker but the next one.
func (c *checker) exactlyOnce(s processor.SinkNeed, p sinkPlan) {
	cfg := c.info.Config
	if !cfg.AllowAtomicPublish {
		c.need("no atomic batches", "them: a sink's output and its marker are stored together or not at all", c.edit("--allow-batch"))
	}
	if cfg.PersistMode == js.AsyncPersistMode {
		c.need("asynchronous persistence", "default persistence, which atomic batches need; make a new stream", "")
	}
	if cfg.SubjectTransform != nil && overlaps(orAll(cfg.SubjectTransform.Source), p.marker) {
		c.need("a subject transform that renames the marker", "none on "+p.marker, c.edit("--no-transform"))
	}
	if cfg.MaxAge > 0 && !cfg.AllowMsgTTL {
		c.need(fmt.Sprintf("an age limit of %s that removes the marker", cfg.MaxAge), "per-message TTLs, so that the marker can say never", c.edit("--allow-msg-ttl"))
	}
	if cfg.DiscardNewPerSubject && cfg.MaxMsgsPerSubject > 0 {
		c.need("a limit per subject that refuses new messages, the next marker too", "one that discards the old ones, or none", c.edit("--no-discard-per-subject --discard old"))
	}
	if cfg.Discard == js.DiscardOld && (cfg.MaxMsgs > 0 || cfg.MaxBytes > 0) && !s.AllowMarkerLoss {
		c.need("a size limit that discards old messages, the marker among them",
			"one that refuses new messages, or AllowMarkerLoss on the sink", c.edit("--discard new"))
	}
}

func orAll(subject string) string {
	if subject == "" {
		return ">"
	}
	return subject
}
