package processor

import (
	"testing"
	"time"
)

func TestRestartPolicy(t *testing.T) {
	for _, random := range []float64{0, 0.999999} {
		p := newRestartPolicy(RestartConfig{First: 100 * time.Millisecond, Max: 2 * time.Second, Attempts: 8}, func() float64 { return random })
		full := 100 * time.Millisecond
		for n := 1; n <= 8; n++ {
			wait, again := p.next()
			if !again || wait < full/2 || wait > full {
				t.Errorf("wait %d is %s, %t: want %s to %s", n, wait, again, full/2, full)
			}
			full = min(2*full, 2*time.Second)
		}
		if _, again := p.next(); again {
			t.Error("the job is never parked")
		}
		p.reset()
		if wait, again := p.next(); !again || wait > 100*time.Millisecond {
			t.Errorf("after a success the wait is %s, %t", wait, again)
		}
		for range 1000 {
			if wait := p.unavailable(); wait > 2*time.Second {
				t.Fatalf("it waits %s for the broker", wait)
			}
		}
		if p.count != 1 {
			t.Error("waiting for the broker counts as failing")
		}
	}
}

func TestTakeoverWatch(t *testing.T) {
	now := time.Unix(0, 0)
	var w takeoverWatch
	look := func(owner string, beat uint64, after time.Duration) bool {
		now = now.Add(after)
		return w.gone(owner, beat, now, 10*time.Second)
	}
	if look("a", 1, 0) || look("a", 1, 9*time.Second) {
		t.Error("gone too early")
	}
	if look("a", 2, 2*time.Second) || look("a", 2, 9*time.Second) {
		t.Error("gone although its heart beats")
	}
	if look("b", 2, 2*time.Second) {
		t.Error("gone although there is another owner")
	}
	if !look("b", 2, 10*time.Second) {
		t.Error("not gone after standing still")
	}
}
