package events

import (
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/clara-suite/clara/libs/clara"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
)

// NoCollection is the last part of the subject of events that belong to no one collection.
const NoCollection = "_"

// Event is one kind of event: its message and the subject without the collection.
type Event struct {
	Message proto.Message // a prototype
	Subject string        // clara.<noun>.<past verb>.v1
}

// Durable is one consumer: a service that wants a kind of event. Its replicas share it.
type Durable struct {
	Service string
	Subject string // of the Event
}

// Topology is every stream and consumer there is.
type Topology struct {
	Stream     string // events and replays
	DeadStream string
	Events     []Event
	Durables   []Durable
	// AckWait is how long a silent consumer keeps an event before another gets it.
	AckWait time.Duration
}

// Suite is the topology of the suite.
func Suite() Topology {
	return Topology{
		Stream:     "CLARA_EVENTS",
		DeadStream: "CLARA_DEAD",
		AckWait:    20 * time.Second,
		Events: []Event{
			{&eventv1.IngestRequested{}, "clara.ingest.requested.v1"},
			{&eventv1.DocumentReady{}, "clara.document.ready.v1"},
			{&eventv1.DocumentDeleted{}, "clara.document.deleted.v1"},
			{&eventv1.DocumentIndexed{}, "clara.document.indexed.v1"},
			{&eventv1.DatasetReady{}, "clara.dataset.ready.v1"},
			{&eventv1.ModelActivated{}, "clara.model.activated.v1"},
		},
		Durables: []Durable{
			{"ingest", "clara.ingest.requested.v1"},
			{"ingest", "clara.document.indexed.v1"},
			{"ingest", "clara.model.activated.v1"},
			{"synthesis", "clara.document.ready.v1"},
			{"compressor", "clara.document.ready.v1"},
			{"compressor", "clara.document.deleted.v1"},
		},
	}
}

// retryPrefix begins the subjects of replayed events: clara.retry.<service>.<subject>.<collection>.
const retryPrefix = "clara.retry."

// deadPrefix begins the subjects of parked events: clara.dead.<service>.<subject>.<collection>.
const deadPrefix = "clara.dead."

// name is the durable's name in JetStream, which takes no dots.
func (d Durable) name() string { return d.Service + "-" + strings.ReplaceAll(d.Subject, ".", "-") }

// filters are the subjects the durable gets: the event's and its own replays.
func (d Durable) filters() []string {
	return []string{d.Subject + ".*", retryPrefix + d.Service + "." + d.Subject + ".*"}
}

// subjects are those of the stream.
func (t Topology) subjects() []string {
	var out []string
	for _, e := range t.Events {
		out = append(out, e.Subject+".*")
	}
	return append(out, retryPrefix+">")
}

// subjectOf returns the full subject of an event. Errors are Invalid.
func (t Topology) subjectOf(m proto.Message) (string, error) {
	name := m.ProtoReflect().Descriptor().FullName()
	for _, e := range t.Events {
		if e.Message.ProtoReflect().Descriptor().FullName() == name {
			collection, err := collectionOf(m)
			return e.Subject + "." + collection, err
		}
	}
	return "", clara.Errorf(clara.Invalid, "%s is no event", name)
}

// eventOf returns the kind of event that a full subject, or one without the collection, carries.
func (t Topology) eventOf(subject string) (Event, bool) {
	for _, e := range t.Events {
		if rest, ok := strings.CutPrefix(subject, e.Subject); ok && (rest == "" || rest[0] == '.' && !strings.Contains(rest[1:], ".")) {
			return e, true
		}
	}
	return Event{}, false
}

var collectionID = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// collectionOf reads the field collection; events without one belong to NoCollection.
func collectionOf(m proto.Message) (string, error) {
	msg := m.ProtoReflect()
	f := msg.Descriptor().Fields().ByName("collection")
	if f == nil || f.Kind() != protoreflect.StringKind || f.IsList() {
		return NoCollection, nil
	}
	id := msg.Get(f).String()
	if !collectionID.MatchString(id) {
		return "", clara.Errorf(clara.Invalid, "%s: collection %q must be 1 to 63 lower-case letters, digits, '-' and '_', starting with a letter or digit",
			msg.Descriptor().Name(), id)
	}
	return id, nil
}
