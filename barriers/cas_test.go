package barriers

import (
	"errors"
	"slices"
	"testing"
)

func TestCompareAndSet(t *testing.T) {
	mine := headBytes(t, 5, "me")
	type answers []Reply // to writes and reads in turn; the last is repeated
	at := func(seq uint64, value []byte) Reply { return Reply{Status: OK, Seq: seq, Value: value} }
	was := at(7, headBytes(t, 4, "before"))
	full := answers{}
	for range 100 {
		full = append(full, Reply{Status: Full}, was)
	}
	refused := Reply{Status: Rejected, Err: errors.New("no")}
	var back *RolledBackError
	var rejected *RejectedError
	var unresolved *UnresolvedError
	var conflicting *ConflictError
	var record *RecordError
	for _, c := range []struct {
		name    string
		answers answers
		final   bool
		seq     uint64
		is      error
		as      any
	}{
		{"done at once", answers{at(8, nil)}, false, 8, nil, nil},
		{"the reply is lost, the write is not", answers{{Status: Unknown}, at(9, mine)}, false, 9, nil, nil},
		{"both are lost", answers{{Status: Unknown}, was, at(8, nil)}, false, 8, nil, nil},
		{"the read is lost too", answers{{Status: Unknown}, {Status: Unknown}, {Status: Unknown}, at(9, mine)}, false, 9, nil, nil},
		{"an earlier try lands late", answers{{Status: Unknown}, was, {Status: Mismatch}, at(9, mine)}, false, 9, nil, nil},
		{"full, then room", append(full, at(8, nil)), false, 8, nil, nil},
		{"a higher epoch", answers{{Status: Mismatch}, at(9, headBytes(t, 6, "other"))}, false, 0, ErrFenced, nil},
		{"my epoch, another owner", answers{{Status: Mismatch}, at(9, headBytes(t, 5, "other"))}, false, 0, ErrFenced, nil},
		{"a lower epoch", answers{{Status: Mismatch}, at(9, headBytes(t, 4, "before"))}, false, 0, nil, &conflicting},
		{"removed", answers{{Status: Mismatch}, {Status: NotFound, Seq: 9}}, false, 0, nil, &conflicting},
		{"gone back", answers{{Status: Mismatch}, at(6, mine)}, false, 0, nil, &back},
		{"gone back unnoticed", answers{at(7, nil)}, false, 0, nil, &back},
		{"a deposed leader's answer", answers{{Status: Unknown}, at(6, mine), {Status: OK}, at(9, mine)}, false, 9, nil, nil},
		{"refused", answers{refused, was}, false, 0, nil, &rejected},
		{"refused while a try is under way", answers{{Status: Unknown}, was, refused, was, refused, was, {Status: Mismatch}, at(9, mine)}, true, 9, nil, nil},
		{"no answer", answers{{Status: Unknown}}, false, 0, nil, &unresolved},
		{"never an answer to the writes", slices.Concat(slices.Repeat(answers{{Status: Unknown}, was}, 50), answers{at(8, nil)}), false, 0, nil, &unresolved},
		{"the same, but final", slices.Concat(slices.Repeat(answers{{Status: Unknown}, was}, 50), answers{at(8, nil)}), true, 8, nil, nil},
		{"always busy", slices.Repeat(answers{{Status: Busy}, was}, 50), false, 0, nil, &unresolved},
		{"nonsense in the record", answers{{Status: Mismatch}, at(9, []byte("{"))}, false, 0, nil, &record},
		{"canceled", answers{{Status: Canceled}}, true, 0, ErrCanceled, nil},
		{"canceled while reading back", answers{{Status: Unknown}, {Status: Canceled}}, true, 0, ErrCanceled, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := 0
			seq, err := CompareAndSet(func(r Request) Reply {
				if r.Op == OpWait {
					return Reply{Status: OK}
				}
				a := c.answers[min(i, len(c.answers)-1)]
				if i++; a.Status == OK && a.Seq == 0 {
					return Reply{Status: OK, Seq: 9, Value: mine}
				}
				return a
			}, Write{Key: "acme.count", Value: mine, Expected: 7, Epoch: 5, Owner: "me", Holder: headHolder, Final: c.final})
			switch {
			case c.is != nil && !errors.Is(err, c.is), c.as != nil && !errors.As(err, c.as):
				t.Fatalf("error is %v", err)
			case c.is == nil && c.as == nil && err != nil:
				t.Fatal(err)
			case seq != c.seq:
				t.Fatalf("sequence is %d, want %d", seq, c.seq)
			}
		})
	}
}
