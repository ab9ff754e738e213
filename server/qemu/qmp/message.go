package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Event is something that QEMU tells unasked.
type Event struct {
	Name string
	Data json.RawMessage // nil if the event carries none
	Time time.Time       // by QEMU's clock; zero if it had none
}

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	Class   string
	Desc    string
}

func (e *Error) Error() string { return fmt.Sprintf("QEMU refuses %s: %s", e.Command, e.Desc) }

// message is any one thing that QEMU says: a greeting, an event, or an answer.
type message struct {
	greeting bool
	event    *Event
	id       uint64 // of the command that is answered; 0 if the answer names none
	result   json.RawMessage
	refusal  *Error
}

var errNoMeaning = errors.New("neither greeting, event nor answer")

// parse reads one line. It keeps no reference to it.
func parse(line []byte) (message, error) {
	var raw struct {
		QMP       json.RawMessage `json:"QMP"`
		Event     string          `json:"event"`
		Data      json.RawMessage `json:"data"`
		Timestamp struct {
			Seconds      int64 `json:"seconds"`
			Microseconds int64 `json:"microseconds"`
		} `json:"timestamp"`
		ID     json.RawMessage `json:"id"`
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal(line, &raw); err != nil {
		return message{}, fmt.Errorf("parse QMP message: %w", err)
	}
	switch {
	case raw.Event != "":
		e := &Event{Name: raw.Event, Data: raw.Data}
		if t := raw.Timestamp; t.Seconds > 0 && t.Microseconds >= 0 {
			e.Time = time.Unix(t.Seconds, t.Microseconds*1000)
		}
		return message{event: e}, nil
	case raw.Error != nil:
		return message{id: parseID(raw.ID), refusal: &Error{Class: raw.Error.Class, Desc: raw.Error.Desc}}, nil
	case raw.Return != nil:
		return message{id: parseID(raw.ID), result: raw.Return}, nil
	case raw.QMP != nil:
		return message{greeting: true}, nil
	}
	return message{}, fmt.Errorf("parse QMP message: %w", errNoMeaning)
}

// parseID returns 0, which no command has, for what is not one of our numbers.
func parseID(raw json.RawMessage) uint64 {
	var id uint64
	if len(raw) == 0 || json.Unmarshal(raw, &id) != nil {
		return 0
	}
	return id
}
