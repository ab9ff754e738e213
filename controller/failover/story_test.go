package failover_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/controller/failover"
)

// shop runs at a, and has a replica at b.
func shop() failover.State {
	return failover.State{
		Service: "shop", Owner: failover.Owner{Place: failover.Place{Site: "a", Host: "host-a"}, Epoch: 1}, Phase: failover.Running,
		Replica: failover.Place{Site: "b", Host: "host-b"},
	}
}

// away is shop after a failover.
func away(request string) failover.State {
	return shop().Decide(failover.Attempt{To: failover.Place{Site: "b", Host: "host-b"}, Edge: "edge-a", HostLeft: 2, EdgeLeft: 3, Epoch: 4, Request: request})
}

// all are connected but for those.
func all(but ...string) failover.Known {
	return failover.Known{There: func(agent string) bool { return !slices.Contains(but, agent) }, Host: "host-b", Edge: "edge-b"}
}

// played follows a turn to its end, in which everything that is asked for is done, but for one command, which fails.
func played(s failover.State, k failover.Known, fails string) (did []string) {
	var turn failover.Turn
	for {
		var c failover.Command
		turn, c = turn.Next(s, k)
		if c.Do == failover.Rest {
			return did
		}
		line := strings.TrimSpace(fmt.Sprint(c.Do, " ", c.Agent))
		var err error
		if line == fails {
			err = errors.New("it fails")
		}
		switch {
		case c.Do == failover.Finish && err == nil:
			s.Left = slices.DeleteFunc(slices.Clone(s.Left), func(l failover.Leftover) bool { return l.Agent == c.Agent })
		case c.Do == failover.Note:
			s, _ = s.Ended(c.Epoch, c.Err)
			line += " " + s.Phase
		}
		did = append(did, line)
		turn = turn.After(c, err)
	}
}

func TestWhoAnswersIsStoppedBeforeTheServiceIsStartedElsewhere(t *testing.T) {
	disk := away("")
	disk.External = true
	for name, test := range map[string]struct {
		state failover.State
		known failover.Known
		fails string
		want  string
	}{
		"all are there":                         {away(""), all(), "", "finish host-a, finish edge-a, start host-b, start edge-b, note running, look host-b"},
		"the old site is lost":                  {away(""), all("host-a", "edge-a"), "", "start host-b, start edge-b, note running, look host-b"},
		"the old host cannot be stopped":        {away(""), all(), "finish host-a", "finish host-a, finish edge-a, start host-b, start edge-b, note running, look host-b"},
		"nor be kept from writing to a disk":    {disk, all(), "finish host-a", "finish host-a, finish edge-a, finish host-a, note failed"},
		"the new host cannot start it":          {away(""), all("host-a", "edge-a"), "start host-b", "start host-b, note failed"},
		"the host of the new site is not known": {away(""), failover.Known{There: all("host-a", "edge-a").There, Trouble: errors.New("it has not joined")}, "", "note failed"},
		"nothing was decided":                   {shop(), all(), "", ""},
	} {
		if got := strings.Join(played(test.state, test.known, test.fails), ", "); got != test.want {
			t.Errorf("%s: %s; want %s", name, got, test.want)
		}
	}
}

func TestATurnBeginsAnewForAnotherOwner(t *testing.T) {
	s := away("one")
	turn, c := failover.Turn{}.Next(s, all("host-a", "edge-a"))
	turn = turn.After(c, nil)
	back := s.Decide(failover.Attempt{To: failover.Place{Site: "a", Host: "host-a"}, Edge: "edge-b", HostLeft: 5, EdgeLeft: 6, Epoch: 7, Request: "two"})
	_, c = turn.Next(back, failover.Known{There: all().There, Host: "host-a", Edge: "edge-a"})
	if c.Do != failover.Finish || c.Epoch != 7 {
		t.Errorf("the next thing done is %+v", c)
	}
	if _, ended := back.Ended(4, nil); ended {
		t.Error("a start for the owner before is taken for one of this")
	}
}

func TestAWishIsAnsweredAgainAlsoWhenAnotherWasDecidedSince(t *testing.T) {
	s := away("one")
	for n := range failover.Remembered - 1 {
		s = s.Decide(failover.Attempt{To: s.Replica, Epoch: s.Owner.Epoch + 3, Request: fmt.Sprint("other ", n)})
	}
	if over, err := s.Decided(failover.Wish{Request: "one"}); !over || err != nil {
		t.Errorf("decided: %v, %v", over, err)
	}
	if over, err := s.Decided(failover.Wish{}); over || err != nil {
		t.Errorf("a wish without a name was decided: %v, %v", over, err)
	}
	if len(s.Requests) > failover.Remembered {
		t.Errorf("%d wishes are remembered", len(s.Requests))
	}
}

func TestADemotionIsOverOnlyWhenItWasDoneOrItsHostIsTheOwner(t *testing.T) {
	demotion := away("").Left[0]
	if away("").Outdated(demotion) || !shop().Outdated(demotion) {
		t.Error("who is the owner is demoted, or who is not is not")
	}
	for outcome, want := range map[failover.Outcome]failover.Fate{failover.Done: failover.Forget, failover.Refused: failover.Renew, failover.Unknown: failover.Keep} {
		if got := demotion.Answered(outcome); got != want {
			t.Errorf("%s: %s, want %s", outcome, got, want)
		}
	}
	route := away("").Left[1]
	if got := route.Answered(failover.Refused); got != failover.Forget {
		t.Errorf("an edge that has seen something newer: %s", got)
	}
}

func TestAFailoverIsRefusedWhereItWouldDoHarm(t *testing.T) {
	replica := failover.Candidate{Place: failover.Place{Site: "b", Host: "host-b"}}
	answers := replica
	answers.Answers = true
	disk := shop()
	disk.External = true
	for name, test := range map[string]struct {
		state failover.State
		wish  failover.Wish
		who   failover.Candidate
		want  string
	}{
		"OK: the site is lost":          {shop(), failover.Wish{}, replica, ""},
		"OK: forced":                    {shop(), failover.Wish{Force: true}, answers, ""},
		"OK: back to a snapshot":        {shop(), failover.Wish{Snapshot: "before"}, answers, ""},
		"OK: a disk, and it is dead":    {disk, failover.Wish{Force: true}, replica, ""},
		"bad: no replica":               {shop(), failover.Wish{}, failover.Candidate{}, "has no replica"},
		"bad: it is there":              {shop(), failover.Wish{To: "a"}, replica, "at site a already"},
		"bad: another site":             {shop(), failover.Wish{To: "c"}, replica, "at site b, not at c"},
		"bad: its host answers":         {shop(), failover.Wish{}, answers, "host-a answers"},
		"bad: a disk, and who knows":    {disk, failover.Wish{}, replica, "make sure that host-a is dead"},
		"bad: a snapshot of who may be": {disk, failover.Wish{Snapshot: "before"}, replica, "make sure that host-a is dead"},
	} {
		err := test.state.Refuse(test.wish, test.who)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
