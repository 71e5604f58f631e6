package ui

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/neuronmill/neuronmill/internal/keys"
)

const (
	sessionCookie = "neuronmill_session"
	sessionFor    = 12 * time.Hour
	mostForm      = 4 << 20 // bytes of a form
)

// session is the content of the cookie. It is sealed: only servers of the bucket can read it. The
// key is checked at each request, so a revoked key ends its sessions, and any server takes
// the sessions of another one.
type session struct {
	Key string    `json:"k"`
	End time.Time `json:"e"`
}

// sealer returns the cipher of sessions.
func (u *UI) sealer(ctx context.Context) (cipher.AEAD, error) {
	secret, err := u.cfg.Secret(ctx)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "neuronmill dashboard session", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of sessions: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("cipher of sessions: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (u *UI) seal(ctx context.Context, s session) (string, error) {
	aead, err := u.sealer(ctx)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("encode a session: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, text, nil)), nil //nolint:gosec // the cipher draws the nonce
}

var errNoSession = errors.New("no valid session")

func (u *UI) unseal(ctx context.Context, cookie string) (session, error) {
	aead, err := u.sealer(ctx)
	if err != nil {
		return session{}, err
	}
	sealed, err := base64.RawURLEncoding.DecodeString(cookie)
	if err != nil || len(cookie) > 2000 {
		return session{}, errNoSession
	}
	text, err := aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return session{}, errNoSession
	}
	var s session
	if json.Unmarshal(text, &s) != nil || time.Now().After(s.End) {
		return session{}, errNoSession
	}
	return s, nil
}

// identify returns the caller by the session's key, or as the API does without one.
func (u *UI) identify(r *http.Request) (Caller, *Refusal) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil || r.Header.Get("Authorization") != "" {
		return u.cfg.Identify(r)
	}
	s, err := u.unseal(r.Context(), cookie.Value)
	if errors.Is(err, errNoSession) {
		return u.cfg.Identify(r)
	}
	if err != nil {
		return Caller{}, &Refusal{http.StatusServiceUnavailable, "The bucket did not answer. Load the page again in some seconds."}
	}
	return u.identifyKey(r, s.Key)
}

func (u *UI) identifyKey(r *http.Request, key string) (Caller, *Refusal) {
	with := r.Clone(r.Context())
	with.Header.Set("Authorization", "Bearer "+key)
	return u.cfg.Identify(with)
}

// guard lets callers with a scope in, and shows others the way to a session.
func (u *UI) guard(scope keys.Scope, serve func(http.ResponseWriter, *http.Request, Caller)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, refusal := u.identify(r)
		switch {
		case refusal != nil && refusal.Status == http.StatusUnauthorized && r.Method == http.MethodGet && r.URL.Query().Get("live") == "":
			http.Redirect(w, r, u.url("/login?to=")+queryEscape(strings.TrimPrefix(r.URL.RequestURI(), u.cfg.Base)), http.StatusSeeOther) //nolint:gosec // to the dashboard's own login page
		case refusal != nil:
			u.fail(w, r, Caller{Scopes: []keys.Scope{}}, refusedError{refusal.Status, refusal.Text})
		case !c.Allows(scope):
			u.fail(w, r, c, refusedError{http.StatusForbidden, "Your key lacks the scope " + string(scope) + "."})
		default:
			serve(w, r, c)
		}
	}
}

func (u *UI) sessionRoutes() {
	u.mux.HandleFunc("GET "+u.cfg.Base+"/login", func(w http.ResponseWriter, r *http.Request) {
		u.write(w, r, Caller{Scopes: []keys.Scope{}}, loginPage, http.StatusOK, loginData{To: r.URL.Query().Get("to")})
	})
	u.mux.HandleFunc("POST "+u.cfg.Base+"/login", u.login)
	u.mux.HandleFunc("POST "+u.cfg.Base+"/logout", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, u.cookie("", -1))
		http.Redirect(w, r, u.url("/login"), http.StatusSeeOther)
	})
}

func (u *UI) cookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{ //nolint:gosec // Secure is set wherever the server has TLS
		Name: sessionCookie, Value: value, Path: u.cfg.Base, MaxAge: maxAge, HttpOnly: true, Secure: u.cfg.Secure, SameSite: http.SameSiteStrictMode,
	}
}

var loginPage = &page{nav: "", title: "Log in", name: "login", views: parse("login")}

type loginData struct {
	To    string // where to go then
	Wrong string // why not
}

// login exchanges an API key for a session.
func (u *UI) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	key, to := strings.TrimSpace(r.PostFormValue("key")), r.PostFormValue("to")
	c, refusal := u.identifyKey(r, key)
	if key == "" && refusal == nil {
		refusal = &Refusal{http.StatusUnauthorized, "The key is missing."}
	}
	if refusal != nil {
		u.write(w, r, Caller{Scopes: []keys.Scope{}}, loginPage, refusal.Status, loginData{To: to, Wrong: refusal.Text})
		return
	}
	sealed, err := u.seal(r.Context(), session{Key: key, End: time.Now().Add(sessionFor)})
	if err != nil {
		u.fail(w, r, c, err)
		return
	}
	http.SetCookie(w, u.cookie(sealed, int(sessionFor.Seconds())))
	http.Redirect(w, r, u.url(ownPath(to)), http.StatusSeeOther) //nolint:gosec // see ownPath
}

// ownPath returns a path of the dashboard; any other text becomes that of the overview.
func ownPath(to string) string {
	if at, err := url.Parse(to); err != nil || at.Host != "" || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n") {
		return "/"
	}
	return to
}
