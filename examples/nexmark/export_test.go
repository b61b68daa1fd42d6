package nexmark

// KeptBid is the codec of bids in state.
var KeptBid = keptBids
