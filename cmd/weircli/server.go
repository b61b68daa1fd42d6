package weircli

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"
)

// serverCommand runs a plain member of a cluster, for the benchmark of three replicas: it starts this binary three times.
func serverCommand() *cobra.Command {
	var name, dir string
	var routes []string
	var port, clusterPort int
	cmd := &cobra.Command{
		Use:    "nats-server",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts := &server.Options{
				ServerName: name, Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
				Cluster: server.ClusterOpts{Name: "weir-bench", Host: "127.0.0.1", Port: clusterPort},
			}
			for _, r := range routes {
				u, err := url.Parse(r)
				if err != nil {
					return fmt.Errorf("--routes: %w", err)
				}
				opts.Routes = append(opts.Routes, u)
			}
			srv, err := server.NewServer(opts)
			if err != nil {
				return err
			}
			srv.Start()
			if !srv.ReadyForConnections(20 * time.Second) {
				srv.Shutdown()
				return errors.New("the server was not ready after 20s")
			}
			<-cmd.Context().Done()
			srv.Shutdown()
			srv.WaitForShutdown()
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&name, "name", "", "server name")
	fs.StringVar(&dir, "dir", "", "store")
	fs.IntVar(&port, "port", 0, "client port")
	fs.IntVar(&clusterPort, "cluster-port", 0, "route port")
	fs.StringSliceVar(&routes, "routes", nil, "routes to the others")
	return cmd
}
