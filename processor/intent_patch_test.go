package processor

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// A field that is added to ConfigPatch and forgotten in over, merge or patchOf would be lost at the next change.
func TestEveryFieldOfAPatchCounts(t *testing.T) {
	four, retained, yes, shadow := 4, 7, true, "s"
	interval, timeout := Duration(2*time.Second), Duration(time.Minute)
	full := ConfigPatch{
		Parallelism: &four, Params: map[string]json.RawMessage{"limit": json.RawMessage("3")}, CheckpointInterval: &interval, CheckpointTimeout: &timeout,
		Retained: &retained, Streams: map[string]string{"a": "b"}, Shadow: &shadow, AllowDataLoss: &yes, AllowDroppedState: &yes, AllowMarks: &yes,
	}
	v := reflect.ValueOf(full)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if v.Field(i).IsZero() {
			t.Fatalf("the test does not set %s", name)
		}
		one := reflect.New(v.Type()).Elem()
		one.Field(i).Set(v.Field(i))
		p := one.Addr().Interface().(*ConfigPatch)
		changed := p.over(JobConfig{})
		if reflect.DeepEqual(changed, JobConfig{}) {
			t.Errorf("%s changes nothing", name)
		}
		for _, merged := range []*ConfigPatch{p.merge(&ConfigPatch{}), (&ConfigPatch{}).merge(p), p.merge(nil), (*ConfigPatch)(nil).merge(p)} {
			if !reflect.DeepEqual(merged.over(JobConfig{}), changed) {
				t.Errorf("%s is lost when patches are merged: %+v", name, merged)
			}
		}
		if name == "Shadow" {
			continue // a copy of a job never has its original's
		}
		copied, err := patchOf(changed)
		if err != nil {
			t.Fatal(err)
		}
		again := copied.over(JobConfig{})
		if !reflect.DeepEqual(reflect.ValueOf(*copied).Field(i).IsZero(), false) || again.Parallelism != changed.Parallelism || len(again.Params) != len(changed.Params) ||
			again.Checkpoint != changed.Checkpoint || !reflect.DeepEqual(again.Streams, changed.Streams) || again.AllowDataLoss != changed.AllowDataLoss ||
			again.AllowDroppedState != changed.AllowDroppedState || again.Marks != changed.Marks {
			t.Errorf("%s is lost in a copy: %+v became %+v", name, changed, again)
		}
	}
}

func TestTheLaterPatchWins(t *testing.T) {
	one, two := 1, 2
	p := (&ConfigPatch{Parallelism: &one, Params: map[string]json.RawMessage{"a": json.RawMessage("1"), "b": json.RawMessage("1")}}).
		merge(&ConfigPatch{Parallelism: &two, Params: map[string]json.RawMessage{"b": json.RawMessage("2")}})
	c := p.over(JobConfig{Parallelism: 9, Params: map[string]any{"a": 0, "c": 0}})
	text, err := json.Marshal(c.Params)
	if err != nil || c.Parallelism != 2 || string(text) != `{"a":1,"b":2,"c":0}` {
		t.Errorf("the configuration is %d %s, %v", c.Parallelism, text, err)
	}
}
