package processor

// Broadcast is Process with rules: fn sees, with every element, the rules in force. So do the functions of timers, through what
// RuleStream.View returns.
//
// All subtasks see every change of the rules, in the order of the bucket; between changes and elements there is no order, but that no
// element comes before the first rules (see Rules). Elements of one key see the rules move forward only. What a checkpoint holds of the
// rules is what was in force in every subtask at its barrier: after a crash the elements behind it are processed again, maybe with newer
// rules, and nothing of the first try was published. RuleView.Revision tells which rules made a result.
//
// Context.Record is the element's. Rules hold event time neither back nor move it on.
func Broadcast[In, R, Out any](s KeyedStream[In], rules RuleStream[R], name string, fn func(pc *Context[Out], v In, rules *RuleView[R]) error, opts ...ProcessOption) Stream[Out] {
	at := callerLine(2)
	keyed, from := s.node(at), rules.node(at)
	feed := from.b.add(&node{kind: KindRulesInput, at: at, inputs: []*node{from}}, false)
	feed.collect = func(a *assembly, n *node) any {
		if a.cuts(n) {
			return newRuleExchange(a, n)
		}
		return ruleTableOf(a, n, rules.codec)
	}
	feed.receive = func(a *assembly, n *node) receiver { return ruleTableOf(a, n, rules.codec) }
	decl := &processDecl{}
	for _, opt := range opts {
		opt(decl)
	}
	n := keyed.b.add(&node{kind: KindBroadcast, name: name, at: at, inputs: []*node{keyed, feed}, process: decl}, true)
	n.require(fn == nil, "its function is nil")
	decl.check(n)
	checkTimerFunc[Out](n, "OnTimer", decl.onTimer)
	checkTimerFunc[Out](n, "OnEventTimer", decl.onEventTimer)
	n.collect = func(a *assembly, n *node) any {
		view := &ruleTableOf(a, feed, rules.codec).view
		return collectProcess(a, n, func(pc *Context[Out], v In) error { return fn(pc, v, view) })
	}
	return Stream[Out]{n}
}
