package endpoint

// RouteState says whether an endpoint can be reached. The values go over the wire: they never change.
type RouteState uint8

// The states of a route. Only Open lets requests through.
const (
	Nowhere RouteState = 0 // nothing is known, or it was unbound
	Open    RouteState = 1
	Moving  RouteState = 2 // held: callers wait
	Dead    RouteState = 3 // its process died
	Cut     RouteState = 4 // its node is gone
)

// Valid tells whether the state is one of those above.
func (s RouteState) Valid() bool { return s <= Cut }

// String returns the word for people.
func (s RouteState) String() string {
	return [...]string{"unbound", "active", "moving", "dead", "cut"}[min(s, Cut)]
}

// Route is what is known of an endpoint's place.
type Route struct {
	Version Version
	Line    uint64
	State   RouteState
	Node    string
}

// Learn takes over what is newer, and tells whether it was.
func (r *Route) Learn(n Route) bool {
	if n.Version.Compare(r.Version) <= 0 {
		return false
	}
	*r = n
	return true
}
