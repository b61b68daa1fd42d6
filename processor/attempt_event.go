package processor

import (
	"github.com/weirstream/weir/barriers"
)

// ctlEvent is what the control loop of an attempt handles, one at a time.
type ctlEvent interface{ isCtl() }

type (
	ctlTick     struct{}
	ctlDirty    struct{ task int }
	ctlSnapshot struct{ snapshot *taskSnapshot }
	ctlLag      struct {
		source  string
		pending uint64
	}
	// ctlMoved says that a source's position has moved a while ago and is not committed, although nothing came to process.
	ctlMoved  struct{}
	ctlFailed struct {
		err    error
		judged bool // it was asked who owns the job
	}
	// ctlRequest asks for a checkpoint now; done, if not nil, is called when it is complete or can no longer become so.
	ctlRequest struct {
		done func(CheckpointEvent, error)
	}
	// ctlDrain asks for a last checkpoint, then lets go of the job and ends the attempt.
	ctlDrain struct{}

	ctlStarted struct {
		start *started
		err   error
	}
	ctlUploaded struct {
		checkpoint uint64
		task       int
		result     *uploaded
		err        error
	}
	// ctlWaits says that an upload waits for room in a bucket, or for the broker.
	ctlWaits     struct{ err error }
	ctlCommitted struct {
		checkpoint uint64
		rec        *barriers.HeadRecord
		err        error
	}
	ctlReleased struct {
		checkpoint uint64
		sink       string
		marker     barriers.MarkerSeen
		err        error
	}
	ctlMerged struct {
		operator string
		prefix   int
		merged   []barriers.Object
		err      error
	}
	ctlCleaned struct{ err error }
	ctlLetGo   struct{ err error }
	// ctlDone says that a fire-and-forget operation ended.
	ctlDone struct{}
)

func (ctlTick) isCtl()      {}
func (ctlDirty) isCtl()     {}
func (ctlSnapshot) isCtl()  {}
func (ctlMoved) isCtl()     {}
func (ctlLag) isCtl()       {}
func (ctlFailed) isCtl()    {}
func (ctlRequest) isCtl()   {}
func (ctlDrain) isCtl()     {}
func (ctlStarted) isCtl()   {}
func (ctlUploaded) isCtl()  {}
func (ctlWaits) isCtl()     {}
func (ctlCommitted) isCtl() {}
func (ctlReleased) isCtl()  {}
func (ctlMerged) isCtl()    {}
func (ctlCleaned) isCtl()   {}
func (ctlLetGo) isCtl()     {}
func (ctlDone) isCtl()      {}
