package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/processor"
)

// Error codes of the server (server/errors.json) that decide something here.
const (
	codeAccountResources     js.ErrorCode = 10002
	codeUnavailable          js.ErrorCode = 10008
	codeNotLeader            js.ErrorCode = 10009
	codeConsumerNotFound     js.ErrorCode = 10014
	codeInsufficient         js.ErrorCode = 10023
	codeMaxConsumers         js.ErrorCode = 10026
	codeMemoryResources      js.ErrorCode = 10028
	codeNoMessage            js.ErrorCode = 10037
	codeNotEnabledForAccount js.ErrorCode = 10039
	codeSequenceNotFound     js.ErrorCode = 10043
	codeStorageResources     js.ErrorCode = 10047
	codeNameInUse            js.ErrorCode = 10058
	codeStreamNotFound       js.ErrorCode = 10059
	codeWrongLastSeq         js.ErrorCode = 10071
	codeNotEnabled           js.ErrorCode = 10076
	codeStoreFailed          js.ErrorCode = 10077
	codeStreamOffline        js.ErrorCode = 10118
	codeMaxStreamBytes       js.ErrorCode = 10122
	codeGuardNotReady        js.ErrorCode = 10163
	codeWrongLastSeqInFlight js.ErrorCode = 10164
	codeTooManyRequests      js.ErrorCode = 10167
	codeTTLDisabled          js.ErrorCode = 10166
	codeIncompleteBatch      js.ErrorCode = 10176
	codeStreamOfflineReason  js.ErrorCode = 10194
	codeBatchTooLarge        js.ErrorCode = 10199
	codeTooManyBatches       js.ErrorCode = 10210
)

// statusOf classes the outcome of a write by what a protocol must do next.
func statusOf(ctx context.Context, err error) barriers.Status {
	if err == nil {
		return barriers.OK
	}
	var api *js.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case codeWrongLastSeq:
			return barriers.Mismatch
		case codeWrongLastSeqInFlight, codeTooManyBatches, codeIncompleteBatch, codeGuardNotReady, codeTooManyRequests:
			// Refused before anything was written. An incomplete batch was abandoned: its leader changed, or it never opened.
			return barriers.Busy
		case codeAccountResources, codeInsufficient, codeMemoryResources, codeStorageResources, codeMaxStreamBytes:
			return barriers.Full
		case codeStoreFailed:
			// "maximum bytes exceeded", "maximum messages exceeded", but also a store that broke half way.
			if isLimit(api.Description) {
				return barriers.Full
			}
			return barriers.Unknown
		case codeNoMessage:
			return barriers.NotFound
		case codeUnavailable, codeNotLeader, codeStreamOffline, codeStreamOfflineReason:
			return barriers.Unknown
		}
		if api.Code >= 500 {
			return barriers.Unknown
		}
		return barriers.Rejected
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, ErrClosed):
		return barriers.Canceled
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrInvalidMsg),
		errors.Is(err, nats.ErrBadHeaderMsg), errors.Is(err, errInvalid):
		return barriers.Rejected
	}
	return barriers.Unknown
}

// errInvalid is wrapped by the broker's own refusals, made before anything is sent.
var errInvalid = errors.New("request is invalid")

func isLimit(description string) bool {
	for _, limit := range []string{"maximum messages exceeded", "maximum bytes exceeded", "maximum messages per subject exceeded"} {
		if description == limit {
			return true
		}
	}
	return false
}

// asTransient makes an error that says no room recognisable as processor.ErrFull, and one that says nothing, because no server answered
// or none could, as processor.ErrUnavailable: neither is the job's fault.
func asTransient(ctx context.Context, err error) error {
	if err == nil || processor.ClassOf(err) != processor.ClassRestart {
		return err
	}
	for _, said := range []error{processor.ErrFull, processor.ErrUnavailable, ErrNoJetStream, ErrServerTooOld} {
		if errors.Is(err, said) {
			return err
		}
	}
	switch statusOf(ctx, err) {
	case barriers.Full:
		return fmt.Errorf("%w: %w", processor.ErrFull, err)
	case barriers.Unknown, barriers.Busy:
		return fmt.Errorf("%w: %w", processor.ErrUnavailable, err)
	}
	return err
}

func replyOf(ctx context.Context, seq uint64, err error) barriers.Reply {
	return barriers.Reply{Status: statusOf(ctx, err), Seq: seq, Err: err}
}
