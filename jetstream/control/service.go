package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weirstream/weir/processor"
)

// QueueGroup is what all workers' endpoints are in: one of them gets each request.
const QueueGroup = "weir"

// errClosing ends what is under way when the service closes.
var errClosing = errors.New("the service closes")

// Service answers requests. Its methods may be called from any goroutine.
type Service struct {
	cfg       Config
	log       *slog.Logger
	verbs     map[string]*verb
	order     []*verb // as they are listed
	limits    *limiter
	forwarded chan struct{} // a place for each request that another worker handed over
	inboxes   []string
	owners    *silence

	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	wg      sync.WaitGroup
	started bool
	closed  bool
	micro   micro.Service
	inside  *nats.Subscription
}

// New validates the configuration. It does no I/O and starts nothing.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &Service{
		cfg: cfg, log: cfg.Logger, verbs: map[string]*verb{}, limits: newLimiter(cfg.Limits),
		forwarded: make(chan struct{}, cfg.Limits.Forwarded), owners: newSilence(),
	}
	for _, v := range verbs() {
		s.verbs[v.name] = v
		s.order = append(s.order, v)
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s, nil
}

// Start subscribes. A service starts once. ctx bounds the start only.
func (s *Service) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closed {
		return errors.New("starting the control service: it starts once, and not after Close")
	}
	s.started = true
	s.inboxes = append(s.cfg.InboxPrefixes, ownInboxes(s.cfg.Conn))
	svc, err := micro.AddService(s.cfg.Conn, micro.Config{
		Name: "weir", Version: processor.Version, Description: "Weir: stream jobs on JetStream", QueueGroup: QueueGroup,
		Metadata:     map[string]string{"worker": s.cfg.Worker, "process": s.cfg.Process},
		StatsHandler: func(e *micro.Endpoint) any { return s.verbs[e.Name].stats.read() },
		ErrorHandler: func(_ micro.Service, err *micro.NATSError) {
			s.log.Warn("the control service's subscription reports an error", "subject", err.Subject, "err", err.Description)
		},
	})
	if err != nil {
		return fmt.Errorf("starting the control service: %w", err)
	}
	s.micro = svc
	for _, v := range s.order {
		if err := s.serve(v); err != nil {
			return errors.Join(fmt.Errorf("starting the control service: serving %s: %w", v.name, err), svc.Stop())
		}
	}
	if s.inside, err = s.cfg.Conn.Subscribe(internalPrefix+s.cfg.Process+".*.*.*", s.handed); err != nil {
		return errors.Join(fmt.Errorf("starting the control service: %w", err), svc.Stop())
	}
	// Whoever is told that the service started may ask it at once.
	if err := s.cfg.Conn.FlushWithContext(flushable(ctx)); err != nil {
		return errors.Join(fmt.Errorf("starting the control service: %w", err), s.inside.Unsubscribe(), svc.Stop())
	}
	s.wg.Go(s.learnTenants)
	return nil
}

// flushable gives a context without a deadline one: the connection asks for it. It ends by itself.
func flushable(ctx context.Context) context.Context {
	if _, has := ctx.Deadline(); has {
		return ctx
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func (s *Service) serve(v *verb) error {
	if v.internal {
		return nil
	}
	in, err := json.Marshal(v.in)
	if err != nil {
		return err
	}
	out, err := json.Marshal(v.out)
	if err != nil {
		return err
	}
	meta := map[string]string{
		"description": v.description, "request_schema": string(in), "response_schema": string(out),
		"errors": `{"type":"object","properties":{"reason":{"type":"string"},"message":{"type":"string"}}}`,
	}
	subject := prefix + "*.*." + v.name
	switch v.scopes {
	case ofTenant | ofAll:
		subject = prefix + "*." + none + "." + v.name
	case ofAll:
		subject = prefix + none + "." + none + "." + v.name
	}
	// What waits is bounded: a flood is refused by rate, and what comes faster than it can be refused is dropped.
	return s.micro.AddEndpoint(v.name, micro.HandlerFunc(func(r micro.Request) { s.heard(v, r) }),
		micro.WithEndpointSubject(subject), micro.WithEndpointMetadata(meta), micro.WithEndpointPendingLimits(8192, 64<<20))
}

// learnTenants gives the tenants that have jobs their own allowance. Without it they get it at their first request.
func (s *Service) learnTenants() {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Limits.ReadTimeout)
	defer cancel()
	var jobs []processor.JobReport
	err := s.guarded("jobs", target{none, none}, func() (err error) {
		jobs, err = s.cfg.Control.Jobs(ctx, "")
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.log.Warn("listing the jobs there are", "err", err)
	}
	for _, j := range jobs {
		s.limits.learn(j.Tenant)
	}
}

// Close ends the subscriptions, tells those who wait that this worker ends, and waits for every goroutine. It is idempotent. The
// connection stays open.
func (s *Service) Close() {
	s.mu.Lock()
	svc, inside := s.micro, s.inside
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	s.cancel(errClosing)
	if !closed {
		if inside != nil {
			_ = inside.Unsubscribe() // a closed connection has none
		}
		if svc != nil {
			if err := svc.Stop(); err != nil {
				s.log.Warn("stopping the control service", "err", err)
			}
		}
	}
	s.wg.Wait()
	if svc != nil && !closed {
		// The answers that were just written must be on their way before the connection is closed.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.cfg.Conn.FlushWithContext(ctx); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			s.log.Warn("sending the last answers", "err", err)
		}
	}
}

// spawn runs f in a goroutine that Close waits for; false: the service is closed.
func (s *Service) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}
