package processor

import (
	"time"

	"github.com/weirstream/weir/barriers"
	"github.com/weirstream/weir/state"
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
	// ctlDrain asks for a last checkpoint, then lets go of the job, unless it is kept, and ends the attempt.
	ctlDrain struct {
		keep bool
		pin  uint64 // a retained checkpoint that must stay, since the job is to start from it; 0: none
	}

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
	// ctlHeld says that a source has got to the limit that an evLimit set.
	ctlHeld struct {
		token    uint64
		source   string
		position uint64
	}
	// ctlMark says that a source stands at a mark that names this job.
	ctlMark struct {
		mark      barriers.Mark
		time      int64 // the record's, unix nanoseconds
		savepoint string
	}
	ctlMarkIgnored struct {
		mark   barriers.Mark
		reason string
	}
	// ctlMarkJudged says whether a mark is to make a savepoint.
	ctlMarkJudged struct {
		name   string // of the savepoint
		mark   barriers.Mark
		done   bool   // its savepoint exists already
		reason string // not empty: it is ignored
		err    error
	}
	// ctlSavepoint asks for a savepoint; done is called once, with what came of it.
	ctlSavepoint struct {
		req  SavepointRequest
		done func(SavepointReport, error)
	}
	// ctlSavepointMoved says that a savepoint gets on.
	ctlSavepointMoved struct {
		name         string
		bytes, total int64 // stored now, and all that there is to copy
		full         bool  // it does not: there is no room
	}
	ctlSavepointMade struct {
		name   string
		report SavepointReport
		err    error
	}
	ctlHold struct {
		id      string
		timeout time.Duration
		done    func(map[string]Position, error)
	}
	ctlResume struct {
		id   string
		done func(error)
	}
	// ctlStop asks the attempt to end; done is called once.
	ctlStop struct {
		req  StopRequest
		done func(StopReport, error)
	}
	// ctlTails tells how far the sources' streams reach.
	ctlTails struct {
		tails map[string]uint64
		err   error
	}
	// ctlStopping says that the head has been told of the stop.
	ctlStopping struct {
		rec *barriers.HeadRecord
		err error
	}
	// ctlRead reads an operator's live state, see evRead.
	ctlRead struct {
		operator, key string
		read          func(b *state.Backend, err error)
	}

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

func (ctlHeld) isCtl()           {}
func (ctlMark) isCtl()           {}
func (ctlMarkIgnored) isCtl()    {}
func (ctlMarkJudged) isCtl()     {}
func (ctlSavepoint) isCtl()      {}
func (ctlSavepointMoved) isCtl() {}
func (ctlSavepointMade) isCtl()  {}
func (ctlHold) isCtl()           {}
func (ctlResume) isCtl()         {}
func (ctlStop) isCtl()           {}
func (ctlTails) isCtl()          {}
func (ctlStopping) isCtl()       {}
func (ctlRead) isCtl()           {}
