package nbd

import "time"

const (
	// fewWrites is the most that comes between two flushes of a client which waits for each of its commits.
	fewWrites = 4
	// quickStart is how long a start may take the goroutine that reads the connection.
	quickStart = time.Millisecond
	// startAgain is how many flushes pass after a start that took longer.
	startAgain = 1000
)

// ahead begins what the next flush will wait for while the client still looks at the answers to its writes: a commit is a write, its
// answer and a flush, and the disk would be idle between. It does so for a client that flushes after few writes, as the last
// time: of others, what is written is written over and joined before it goes to the disk.
type ahead struct {
	backend Starter // nil if there is none
	writes  int     // taken since the last flush
	begun   int     // … of them, what was begun with
	habit   bool    // the last flush came after few writes
	rest    int     // flushes that are to pass before anything is begun again
}

func (a *ahead) wrote() { a.writes++ }

func (a *ahead) flushed() {
	if a.writes > 0 { // else it is a second one for the same writes
		a.habit = a.writes <= fewWrites
	}
	a.writes, a.begun, a.rest = 0, 0, max(a.rest-1, 0)
}

// idle is called when all that could be answered at once is, and the next request is to be waited for.
func (a *ahead) idle() {
	if a.backend == nil || !a.habit || a.writes == a.begun || a.writes > fewWrites || a.rest > 0 {
		return
	}
	a.begun = a.writes
	began := time.Now()
	a.backend.StartFlush()
	if time.Since(began) > quickStart {
		a.rest = startAgain
	}
}
