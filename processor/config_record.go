package processor

import (
	"encoding/json"
	"fmt"
)

// configRecord is a job's configuration as manifests, savepoints and reports carry it: JSON that a person can read. It is information:
// no start depends on it.
type configRecord struct {
	Name              string                     `json:"name"`
	Parallelism       int                        `json:"parallelism"`
	KeyGroups         int                        `json:"key_groups"`
	Params            map[string]json.RawMessage `json:"params,omitempty"`
	Checkpoint        checkpointRecord           `json:"checkpoint"`
	Restart           restartRecord              `json:"restart"`
	Quota             quotaRecord                `json:"quota"`
	Streams           map[string]string          `json:"streams,omitempty"`
	Shadow            string                     `json:"shadow,omitempty"`
	Start             *StartPoint                `json:"start,omitempty"`
	AllowDataLoss     bool                       `json:"allow_data_loss,omitempty"`
	AllowDroppedState bool                       `json:"allow_dropped_state,omitempty"`
	MergeAfter        int                        `json:"merge_after"`
}

type checkpointRecord struct {
	Interval          Duration    `json:"interval"`
	Timeout           Duration    `json:"timeout"`
	MinPause          Duration    `json:"min_pause,omitempty"`
	TolerableFailures int         `json:"tolerable_failures"`
	Retained          int         `json:"retained"`
	Barriers          BarrierMode `json:"barriers,omitempty"`
}

type restartRecord struct {
	First    Duration `json:"first"`
	Max      Duration `json:"max"`
	Attempts int      `json:"attempts"`
}

type quotaRecord struct {
	StateBytes   int64 `json:"state_bytes"`
	PendingBytes int64 `json:"pending_bytes"`
	KeyBytes     int   `json:"key_bytes"`
}

// record returns the configuration as JSON.
func (c JobConfig) record() (json.RawMessage, error) {
	params, err := encodeParams(c.Params)
	if err != nil {
		return nil, err
	}
	r := configRecord{
		Name: c.Name, Parallelism: c.Parallelism, KeyGroups: c.KeyGroups, Params: params,
		Checkpoint: checkpointRecord{
			Interval: Duration(c.Checkpoint.Interval), Timeout: Duration(c.Checkpoint.Timeout), MinPause: Duration(c.Checkpoint.MinPause),
			TolerableFailures: c.Checkpoint.TolerableFailures, Retained: c.Checkpoint.Retained, Barriers: c.Checkpoint.Barriers,
		},
		Restart: restartRecord{Duration(c.Restart.First), Duration(c.Restart.Max), c.Restart.Attempts},
		Quota:   quotaRecord{c.Quota.StateBytes, c.Quota.PendingBytes, c.Quota.KeyBytes},
		Streams: c.Streams, Shadow: c.Shadow, AllowDataLoss: c.AllowDataLoss, AllowDroppedState: c.AllowDroppedState, MergeAfter: c.MergeAfter,
	}
	if c.Start != (StartPoint{}) {
		r.Start = &c.Start
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	return text, nil
}
