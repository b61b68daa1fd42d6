package processortest

import (
	"fmt"

	"github.com/weirstream/weir/processor"
	"github.com/weirstream/weir/tenants"
)

// PutRule sets a rule of the processor.Rules with this name, as "nats kv put" in its bucket would. What is pushed from now on sees it.
func (h *Harness[In, Out]) PutRule(rules, key, value string) error {
	return h.rule(rules, key, processor.Record{Data: []byte(value)})
}

// DeleteRule removes a rule.
func (h *Harness[In, Out]) DeleteRule(rules, key string) error {
	return h.rule(rules, key, processor.Record{Header: map[string][]string{"KV-Operation": {"DEL"}}})
}

func (h *Harness[In, Out]) rule(rules, key string, r processor.Record) error {
	job := tenants.JobID{Tenant: "test", Name: h.topology.Name()}
	for _, s := range h.topology.Needs(job, tenants.DefaultNamespace).Sources {
		if s.Source != rules || s.Bucket == "" {
			continue
		}
		if !s.Shared {
			key = tenants.EscapeToken(key)
		}
		r.Subject = s.Keys(job.Tenant).Prefix + key
		return h.bed.Push(rules, r)
	}
	return fmt.Errorf("the operators under test read no rules %q", rules)
}
