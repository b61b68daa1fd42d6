package processor

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
	"github.com/weirstream/weir/tenants"
)

// maxObject bounds one snapshot object, in bytes: large objects choke replicated object stores.
const maxObject = 8 << 20

// uploaded is one task's part of a checkpoint, durable.
type uploaded struct {
	states  []stateUpload
	outputs []outputUpload
	bytes   int64
	took    time.Duration
}

type stateUpload struct {
	operator string
	subtask  int
	objects  []barriers.Object
}

type outputUpload struct {
	sink    string
	subtask int
	output  *state.Output
	objects []barriers.Object
}

func (u *uploaded) allObjects() []barriers.Object {
	var all []barriers.Object
	for _, s := range u.states {
		all = append(all, s.objects...)
	}
	for _, o := range u.outputs {
		all = append(all, o.objects...)
	}
	return all
}

// objectNames makes unique object names for one checkpoint of one attempt: {job}/{epoch}-{checkpoint}/{operator}-{subtask}-{nonce}{n}.
type objectNames struct {
	prefix, nonce string
	next          *atomic.Uint64
}

func (a *attempt) objectNames(checkpoint uint64) objectNames {
	return objectNames{
		prefix: fmt.Sprintf("%s/%d-%d/", a.job.Name, a.rec.Head.Epoch, checkpoint),
		nonce:  a.nonce, next: &a.names,
	}
}

func (n objectNames) name(operator string, subtask int) string {
	return fmt.Sprintf("%s%s-%d-%s%d", n.prefix, operator, subtask, n.nonce, n.next.Add(1))
}

// upload encodes and stores what one task froze, beside the task.
type upload struct {
	job        tenants.JobID
	checkpoint uint64
	names      objectNames
	io         effects
	timeout    time.Duration // of the checkpoint
	wait       func(error)   // hears why it waits
	encoding   *atomic.Pointer[encoding]
	result     uploaded
}

// encoding is the user's code at work: a state's codec, for a snapshot.
type encoding struct {
	operator string
	subtask  int
	since    time.Time
	frozen   *state.Frozen
}

// encode runs the codecs of an operator's states.
func (u *upload) encode(f *frozenState) ([]state.EncodedObject, error) {
	var encoded []state.EncodedObject
	var err error
	u.encoding.Store(&encoding{f.operator, f.subtask, time.Now(), f.frozen})
	if ended := u.io.UserCode(Where{Job: u.job, Operator: f.operator}, func() { encoded, err = f.frozen.Encode(maxObject) }); ended != nil {
		return nil, ended
	}
	u.encoding.Store(nil)
	return encoded, err
}

func (u *upload) run(ctx context.Context, s *taskSnapshot) (*uploaded, error) {
	start := time.Now()
	for _, f := range s.states {
		if f.frozen.Empty() {
			continue
		}
		encoded, err := u.encode(&f)
		if err != nil {
			return &u.result, fmt.Errorf("encoding the state of operator %s, subtask %d: %w", f.operator, f.subtask, err)
		}
		objects, err := u.putAll(ctx, f.operator, f.subtask, encoded)
		u.result.states = append(u.result.states, stateUpload{operator: f.operator, subtask: f.subtask, objects: objects})
		if err != nil {
			return &u.result, err
		}
	}
	for _, o := range s.outputs {
		if o.output.Len() == 0 {
			continue
		}
		encoded, err := o.output.Encode(state.OutputMeta{
			Tenant: string(u.job.Tenant), Job: u.job.Name, Sink: o.sink, Subtask: o.subtask, Checkpoint: u.checkpoint,
		}, maxObject)
		if err != nil {
			return &u.result, fmt.Errorf("encoding the output of sink %s, subtask %d: %w", o.sink, o.subtask, err)
		}
		objects, err := u.putAll(ctx, o.sink, o.subtask, encoded)
		u.result.outputs = append(u.result.outputs, outputUpload{sink: o.sink, subtask: o.subtask, output: o.output, objects: objects})
		if err != nil {
			return &u.result, err
		}
	}
	if s.flushed != nil {
		if err := s.flushed(ctx); err != nil {
			return &u.result, fmt.Errorf("waiting for at-least-once output: %w", err)
		}
	}
	u.result.took = time.Since(start)
	return &u.result, nil
}

func (u *upload) putAll(ctx context.Context, operator string, subtask int, encoded []state.EncodedObject) ([]barriers.Object, error) {
	var objects []barriers.Object
	for _, e := range encoded {
		obj, err := u.put(ctx, u.names.name(operator, subtask), e.Data)
		if err != nil {
			return objects, fmt.Errorf("uploading the snapshot of %s, subtask %d: %w", operator, subtask, err)
		}
		obj.Base, obj.Subtask, obj.Checkpoint = e.Base, subtask, u.checkpoint
		obj.FirstGroup, obj.LastGroup, obj.Messages = e.FirstGroup, e.LastGroup, e.Messages
		objects = append(objects, obj)
		u.result.bytes += obj.Bytes
	}
	return objects, nil
}

// put stores one object. A bucket without room, or a broker that is away, is back-pressure and not a failure: it waits until that
// ends or the checkpoint is aborted. What an earlier try may have left behind has another name: it is an orphan.
func (u *upload) put(ctx context.Context, name string, data []byte) (barriers.Object, error) {
	for try := 1; ; try++ {
		tryName := name
		if try > 1 {
			tryName = fmt.Sprintf("%s.%d", name, try)
		}
		obj, err := u.io.Put(ctx, u.job.Tenant, tryName, data)
		if err == nil || !errors.Is(err, ErrFull) && !errors.Is(err, ErrUnavailable) {
			return obj, err
		}
		u.wait(err)
		// Each try restarts the checkpoint's timeout, so it must come before that.
		if err := u.io.Sleep(ctx, min(backoff(try), u.timeout/3)); err != nil {
			return barriers.Object{}, err
		}
	}
}

// backoff is the wait before try number attempt+1: 20 ms doubling to 2 s.
func backoff(attempt int) time.Duration {
	return min(20*time.Millisecond<<min(max(attempt-1, 0), 10), 2*time.Second)
}
