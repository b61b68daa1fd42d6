package control

import "sync/atomic"

// counters count one verb's requests on this worker.
type counters struct {
	requests, ignored, refused, failed atomic.Uint64
	running                            atomic.Int64
}

// Stats is the data of an endpoint in the answer to nats micro stats. What the framework counts beside it ends when a request was
// handed over, before the work.
type Stats struct {
	Requests uint64 `json:"requests"`
	Ignored  uint64 `json:"ignored"` // another subject, or no inbox to answer to
	Refused  uint64 `json:"refused"` // before any work
	Failed   uint64 `json:"failed"`  // by the work
	Running  int64  `json:"running"`
}

func (c *counters) read() Stats {
	return Stats{c.requests.Load(), c.ignored.Load(), c.refused.Load(), c.failed.Load(), c.running.Load()}
}

// Stats returns what was counted, by verb.
func (s *Service) Stats() map[string]Stats {
	all := make(map[string]Stats, len(s.verbs))
	for name, v := range s.verbs {
		all[name] = v.stats.read()
	}
	return all
}
