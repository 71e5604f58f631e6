package ui

import (
	"context"
	"net/http"
	"strconv"
)

type gatesData struct {
	Gates []gateRow
	Past  []gatePast
}

func (u *UI) gates(ctx context.Context, _ *http.Request, _ Caller) (any, error) {
	f, err := u.fleet(ctx)
	if err != nil {
		return nil, err
	}
	past, err := u.past(ctx, f.Gates)
	return gatesData{f.Gates, past}, err
}

// mostPace is the bound of a pace that a person sets, in calls a minute.
const mostPace = 1_000_000

// changeGate opens or closes a gate, or sets its pace.
func (u *UI) changeGate(w http.ResponseWriter, r *http.Request, c Caller) {
	name, do := r.PostFormValue("gate"), r.PostFormValue("do")
	states, err := u.cfg.Gate.States(r.Context(), name)
	if err != nil || len(states) == 0 || name == "" || len(name) > 200 || states[0].Pace.Source == "" && states[0].Calls == 0 && !states[0].Refused && states[0].Closed == 0 {
		u.fail(w, r, c, refusedError{http.StatusNotFound, "There is no such gate. A gate is there once its model was called."})
		return
	}
	done := ""
	switch do {
	case "open":
		done, err = "opened", u.openGate(r.Context(), name, states[0].Pace.PerMinute == 0)
	case "close":
		done, err = "closed", u.cfg.Gate.Set(r.Context(), name, 0)
	case "reset":
		done, err = "reset", u.cfg.Gate.Reset(r.Context(), name)
	case "set":
		var pace int
		if pace, err = strconv.Atoi(r.PostFormValue("pace")); err != nil || pace < 0 || pace > mostPace {
			u.fail(w, r, c, refusedError{http.StatusBadRequest, "The pace must be a whole number of calls a minute, from 0 to 1,000,000."})
			return
		}
		done, err = "set", u.cfg.Gate.Set(r.Context(), name, pace)
	default:
		err = refusedError{http.StatusBadRequest, "The action is not known."}
	}
	u.reader.forget()
	u.acted(w, r, c, acted{err: err, did: "gate " + do, about: name, count: 1, to: "/gates", done: done})
}

// openGate ends a closure, also that of a pace of 0 that a person set.
func (u *UI) openGate(ctx context.Context, name string, zero bool) error {
	if zero {
		if err := u.cfg.Gate.Reset(ctx, name); err != nil {
			return err
		}
	}
	return u.cfg.Gate.Open(ctx, name)
}

// forget makes the next page read the fleet again.
func (r *fleetReader) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read, r.reported = r.read.AddDate(-1, 0, 0), r.reported.AddDate(-1, 0, 0)
}
