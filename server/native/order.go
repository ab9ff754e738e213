package native

// What goes between a Place and its shepherd: orders one way, answers the other, each a line of JSON.

type verb string

const (
	setUp       verb = "set up"
	start       verb = "start"
	dump        verb = "dump"
	restore     verb = "restore"
	letGo       verb = "continue"
	firstPID         = 10000 // of the program: far from those of a shepherd and of criu, on every machine
	ordersFD         = 0
	outputFD         = 1
	answersFD        = 3
	programFD        = 4
	programFile      = "program"
)

// order is what a shepherd is to do.
type order struct {
	Verb      verb              `json:"verb"`
	Dir       string            `json:"dir,omitempty"`   // of the place, or of an image
	Links     map[string]string `json:"links,omitempty"` // in the place: where to, by name
	Arguments []string          `json:"arguments,omitempty"`
	Env       []string          `json:"env,omitempty"`
	CRIU      string            `json:"criu,omitempty"`
}

// answer is what became of an order; or, with Ended, of the program.
type answer struct {
	PID   int    `json:"pid,omitempty"` // of the program, in the place
	Err   string `json:"error,omitempty"`
	Ended string `json:"ended,omitempty"`
}
