package weircli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"github.com/synadia-io/orbit.go/natscontext"

	"github.com/weirstream/weir/jetstream"
)

const defaultURL = "nats://127.0.0.1:4222"

// connFlags say which server and as whom, with the names, variables and contexts of the nats CLI. A flag goes before its variable,
// both before the context.
type connFlags struct {
	url, context           string
	creds, user, password  string
	nkey                   string
	tlsCert, tlsKey, tlsCA string
	inboxPrefix            string
	timeout                time.Duration
	noSelected             bool // the context that is selected counts only when it is named
}

// register adds the flags. A command that starts a server of its own unless it is told otherwise is not told by the environment.
func (f *connFlags) register(cmd *cobra.Command, ownServer bool) {
	fs := cmd.Flags()
	env := os.Getenv
	if f.noSelected = ownServer; ownServer {
		env = func(string) string { return "" }
	}
	fs.StringVarP(&f.url, "server", "s", env("NATS_URL"), "NATS server, or several separated by commas ($NATS_URL; default "+defaultURL+")")
	fs.StringVar(&f.url, "url", env("NATS_URL"), "the same as --server")
	fs.StringVar(&f.context, "context", env("NATS_CONTEXT"), "a context of the nats CLI ($NATS_CONTEXT; default: the selected one, when no server is given)")
	fs.StringVar(&f.creds, "creds", env("NATS_CREDS"), "credentials file ($NATS_CREDS)")
	fs.StringVar(&f.user, "user", env("NATS_USER"), "user name or token ($NATS_USER)")
	fs.StringVar(&f.password, "password", "", "password of --user (better: $NATS_PASSWORD)")
	fs.StringVar(&f.nkey, "nkey", env("NATS_NKEY"), "file with the user's NKey seed ($NATS_NKEY)")
	fs.StringVar(&f.tlsCert, "tlscert", env("NATS_CERT"), "client certificate, PEM ($NATS_CERT)")
	fs.StringVar(&f.tlsKey, "tlskey", env("NATS_KEY"), "key of --tlscert, PEM ($NATS_KEY)")
	fs.StringVar(&f.tlsCA, "tlsca", env("NATS_CA"), "certificate authority of the server, PEM ($NATS_CA)")
	fs.StringVar(&f.inboxPrefix, "inbox-prefix", env("NATS_INBOX_PREFIX"), "prefix of reply subjects, for users who may not subscribe to _INBOX.> ($NATS_INBOX_PREFIX)")
	fs.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long to wait for the server")
	cmd.MarkFlagsMutuallyExclusive("server", "url")
	for _, name := range []string{"tlscert", "tlskey", "tlsca", "nkey", "inbox-prefix"} {
		_ = fs.MarkHidden(name) // as usual in NATS; --help is long enough
	}
}

// options are those of the flags and variables alone.
func (f *connFlags) options() ([]nats.Option, error) {
	opts := []nats.Option{nats.Timeout(f.timeout)}
	if f.creds != "" {
		opts = append(opts, nats.UserCredentials(f.creds))
	}
	if f.nkey != "" {
		o, err := nats.NkeyOptionFromSeed(f.nkey)
		if err != nil {
			return nil, fmt.Errorf("--nkey %s: %w", f.nkey, err)
		}
		opts = append(opts, o)
	}
	password := cmp.Or(f.password, os.Getenv("NATS_PASSWORD"))
	switch {
	case f.user != "" && password != "":
		opts = append(opts, nats.UserInfo(f.user, password))
	case f.user != "":
		opts = append(opts, nats.Token(f.user))
	}
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return nil, fmt.Errorf("--tlscert and --tlskey go together: give both or none")
	}
	if f.tlsCert != "" {
		opts = append(opts, nats.ClientCert(f.tlsCert, f.tlsKey))
	}
	if f.tlsCA != "" {
		opts = append(opts, nats.RootCAs(f.tlsCA))
	}
	if f.inboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(f.inboxPrefix))
	}
	return opts, nil
}

// contextName is the context to use: the one named or, if no server is, the one selected with the nats CLI; empty for none.
func (f *connFlags) contextName() string {
	if f.context != "" || f.url != "" || f.noSelected {
		return f.context
	}
	dir, err := os.UserHomeDir()
	if config := os.Getenv("XDG_CONFIG_HOME"); config != "" {
		dir = config
	} else if err != nil {
		return ""
	} else {
		dir = filepath.Join(dir, ".config")
	}
	name, err := os.ReadFile(filepath.Join(dir, "nats", "context.txt"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// dial opens a connection. More options go before those of the user.
func (f *connFlags) dial(more ...nats.Option) (*nats.Conn, error) {
	own, err := f.options()
	if err != nil {
		return nil, err
	}
	opts := append(more, own...)
	name := f.contextName()
	if name == "" {
		url := cmp.Or(f.url, defaultURL)
		nc, err := nats.Connect(url, opts...)
		if err != nil {
			return nil, fmt.Errorf("connecting to %s: %w: is a server running there? Give another with --server or --context", redact(url), err)
		}
		return nc, nil
	}
	if f.url != "" {
		opts = append(opts, func(o *nats.Options) error { // the context's user at another address
			o.Url, o.Servers = "", strings.Split(f.url, ",")
			return nil
		})
	}
	nc, _, err := natscontext.Connect(name, opts...)
	if err != nil {
		return nil, fmt.Errorf("connecting with the context %s: %w: see nats context ls, or give --server", name, err)
	}
	return nc, nil
}

func (f *connFlags) connect(name string) (*nats.Conn, error) {
	return f.dial(nats.Name(name), nats.MaxReconnects(-1))
}

// Conn makes the flags a jetstream.Provider.
func (f *connFlags) Conn(_ context.Context, p jetstream.Purpose) (*nats.Conn, error) {
	nc, err := f.dial(jetstream.ConnOptions(p, nil)...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", jetstream.ErrNoServer, err)
	}
	return nc, nil
}
