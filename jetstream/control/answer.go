package control

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weirstream/weir/processor"
)

// Problem is the body of an answer that refuses.
type Problem struct {
	Reason  processor.Reason `json:"reason"`
	Message string           `json:"message"`
}

// codes are the stable numbers of the reasons.
var codes = map[processor.Reason]int{
	processor.ReasonBadRequest:    400,
	processor.ReasonForbidden:     403,
	processor.ReasonUnknownTenant: 404,
	processor.ReasonUnknownJob:    404,
	processor.ReasonNotFound:      404,
	processor.ReasonNotRunning:    409,
	processor.ReasonConflict:      409,
	processor.ReasonIncompatible:  422,
	processor.ReasonLimit:         429,
	processor.ReasonFailed:        500,
	processor.ReasonNoOwner:       503,
	processor.ReasonUnavailable:   503,
}

// Code returns the number in the header Nats-Service-Error-Code for a reason.
func Code(r processor.Reason) int {
	if c := codes[r]; c != 0 {
		return c
	}
	return 500
}

// problemOf classes an error. Only what is an answer to the request is told as such; the rest was tried and failed.
func problemOf(ctx context.Context, err error) Problem {
	var own *processor.ControlError
	var elsewhere *processor.NotOwnerError
	switch {
	case errors.As(err, &own):
		return Problem{own.Reason, own.Message}
	case errors.As(err, &elsewhere):
		return Problem{processor.ReasonUnavailable, elsewhere.Error() + ", which came to own it while the request was under way: ask again"}
	case errors.Is(context.Cause(ctx), errClosing):
		return Problem{processor.ReasonUnavailable, "this worker ends: the request may have been carried out, ask for the job's status"}
	case errors.Is(err, context.DeadlineExceeded):
		return Problem{processor.ReasonUnavailable, "the request took longer than this worker waits for it and may go on: ask for the job's status"}
	case errors.Is(err, processor.ErrUnavailable):
		return Problem{processor.ReasonUnavailable, err.Error()}
	}
	return Problem{processor.ReasonFailed, err.Error()}
}

// maxHeader bounds the sentence in a header; the body has it in full.
const maxHeader = 512

// message encodes an answer or a problem.
func (s *Service) message(reply string, answer any, p *Problem) *nats.Msg {
	if p == nil {
		body, err := json.Marshal(answer)
		switch {
		case err != nil:
			p = &Problem{processor.ReasonFailed, "encoding the answer: " + err.Error()}
		case len(body) > s.maxAnswer():
			p = &Problem{processor.ReasonLimit, "the answer has " + strconv.Itoa(len(body)) + " bytes, and the server carries " +
				strconv.Itoa(s.maxAnswer()) + ": ask for less, or raise max_payload"}
		default:
			return &nats.Msg{Subject: reply, Data: body}
		}
	}
	if limit := s.maxAnswer() / 2; len(p.Message) > limit {
		p.Message = strings.ToValidUTF8(p.Message[:limit], "") + "…"
	}
	body, err := json.Marshal(p)
	if err != nil { // two strings
		panic(err)
	}
	return &nats.Msg{Subject: reply, Data: body, Header: nats.Header{
		micro.ErrorCodeHeader: {strconv.Itoa(Code(p.Reason))},
		micro.ErrorHeader:     {headline(p.Message)},
	}}
}

// headline makes a header value of a message: one line, bounded.
func headline(message string) string {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, message)
	if len(line) > maxHeader {
		line = strings.ToValidUTF8(line[:maxHeader], "") + "…"
	}
	if line = strings.TrimSpace(line); line == "" {
		return "refused"
	}
	return line
}

// maxAnswer is what an answer's body may have beside its headers.
func (s *Service) maxAnswer() int { return max(int(s.cfg.Conn.MaxPayload())-2048, 1024) }
