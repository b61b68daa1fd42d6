package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

const apiPrefix = "$JS.API."

// errInjected is what a request that Intercept dropped, or whose reply it lost, ends with.
var errInjected = fmt.Errorf("%w (injected)", nats.ErrTimeout)

// intercept asks the test seam.
func (b *Broker) intercept(op, subject string) Fault {
	if b.cfg.Intercept == nil {
		return Pass
	}
	return b.cfg.Intercept(op, subject)
}

// request sends one message and waits for its reply, at most Config.Timeout.
func (b *Broker) request(ctx context.Context, p Purpose, op string, m *nats.Msg) (*nats.Msg, error) {
	c, err := b.conn(ctx, p)
	if err != nil {
		return nil, err
	}
	fault := b.intercept(op, m.Subject)
	if fault == Drop {
		return nil, errInjected
	}
	rctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	reply, err := c.nc.RequestMsgWithContext(rctx, m)
	if fault == LoseReply {
		return nil, errInjected
	}
	return reply, ownTimeout(ctx, err)
}

// ownTimeout tells the end of a request's own time from the end of the caller's context.
func ownTimeout(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nats.ErrTimeout
	}
	return err
}

// api calls the JetStream API: verb is the subject behind $JS.API. req and resp are JSON values, nil for none. An error the
// server answers with is a *js.APIError.
func (b *Broker) api(ctx context.Context, verb string, req, resp any) error {
	return b.apiOn(ctx, Control, "api", verb, req, resp)
}

func (b *Broker) apiOn(ctx context.Context, p Purpose, op, verb string, req, resp any) error {
	var body []byte
	if req != nil {
		var err error
		if body, err = json.Marshal(req); err != nil {
			return fmt.Errorf("encode %s: %w", verb, err)
		}
	}
	m, err := b.request(ctx, p, op, &nats.Msg{Subject: apiPrefix + verb, Data: body})
	if err != nil {
		return fmt.Errorf("ask %s: %w", verb, err)
	}
	var envelope struct {
		Error *js.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &envelope); err != nil {
		return fmt.Errorf("decode the answer to %s: %w", verb, err)
	}
	if envelope.Error != nil {
		return fmt.Errorf("ask %s: %w", verb, envelope.Error)
	}
	if resp == nil {
		return nil
	}
	if err := json.Unmarshal(m.Data, resp); err != nil {
		return fmt.Errorf("decode the answer to %s: %w", verb, err)
	}
	return nil
}

// apiCode returns the JetStream error code in err, 0 if there is none.
func apiCode(err error) js.ErrorCode {
	var e *js.APIError
	if errors.As(err, &e) {
		return e.ErrorCode
	}
	return 0
}

// storedMsg is a message as the leader returns it.
type storedMsg struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Header  []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// leaderGet reads a message through the stream's leader; nil without an error: there is none.
func (b *Broker) leaderGet(ctx context.Context, stream string, req any) (*storedMsg, error) {
	var resp struct {
		Message *storedMsg `json:"message"`
	}
	err := b.api(ctx, "STREAM.MSG.GET."+stream, req, &resp)
	if code := apiCode(err); code == codeNoMessage || code == codeSequenceNotFound {
		return nil, nil
	}
	if err == nil && resp.Message == nil {
		err = fmt.Errorf("read a message of stream %s: the answer holds none", stream)
	}
	return resp.Message, err
}

type getBySeq struct {
	Seq uint64 `json:"seq"`
}

type getLast struct {
	LastBySubject string `json:"last_by_subj"`
}

// pubAck is the answer to a publish.
type pubAck struct {
	Stream string       `json:"stream"`
	Seq    uint64       `json:"seq"`
	Batch  string       `json:"batch"`
	Count  int          `json:"count"`
	Error  *js.APIError `json:"error"`
}

func decodeAck(data []byte) (pubAck, error) {
	var ack pubAck
	if err := json.Unmarshal(data, &ack); err != nil {
		return ack, fmt.Errorf("decode publish acknowledgement: %w", err)
	}
	if ack.Error != nil {
		return ack, ack.Error
	}
	if ack.Stream == "" || ack.Seq == 0 {
		return ack, fmt.Errorf("decode publish acknowledgement: it names no stream or sequence: %.100q", data)
	}
	return ack, nil
}

// publishOne publishes one message and waits for its acknowledgement.
func (b *Broker) publishOne(ctx context.Context, p Purpose, m *nats.Msg) (pubAck, error) {
	reply, err := b.request(ctx, p, "publish", m)
	if err != nil {
		return pubAck{}, fmt.Errorf("publish on %s: %w", m.Subject, err)
	}
	ack, err := decodeAck(reply.Data)
	if err != nil {
		return ack, fmt.Errorf("publish on %s: %w", m.Subject, err)
	}
	return ack, nil
}
