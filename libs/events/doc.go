// Package events carries events between services, keeps small records, and is
// the only home of NATS.
//
// Events are the messages of clara.event.v1 as protobuf JSON on subjects
// clara.<noun>.<past verb>.v1.<collection>, in one JetStream stream with
// interest-based retention: an event stays until every durable consumer that
// wants it is done with it. Topology declares the stream and all consumers before
// anything is published. Delivery is at least once; handlers are idempotent.
//
// A Consumer counts attempts at their start, in stored records, so that an event
// that kills its consumer still ends in the dead-letter stream after the last
// try. What a handler returns decides what becomes of the event:
//
//	nil, Exists                   done
//	NotFound                      done: what it is about is gone
//	Invalid, Unsupported, Corrupt parked at once (Denied and Unauthenticated too)
//	State, Conflict, Busy         again after a delay; not counted as an attempt
//	Unavailable                   again with back-off; not counted as an attempt
//	context ended                 again at once, not counted
//	anything else                 again with back-off, parked after the last attempt
//
// Waiting without attempts is bounded too (ConsumerOptions.MaxWait). Parked events
// are listed, replayed and discarded with Dead, Replay and Discard.
//
// A Store keeps protobuf records under keys, with compare-and-set by revision. In a
// cluster it reads what the leader of the records has. Requests that a server took with
// it when it died are sent again, for 30 s at most, and stored once. An
// Outbox is a store whose records carry the events they still owe: stored in one
// step with the state, published after, and published again after a crash.
package events
