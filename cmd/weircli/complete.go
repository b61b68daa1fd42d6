package weircli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/weirstream/weir/jetstream/control"
)

// completePatience is how long a shell may wait for the names of jobs.
const completePatience = 800 * time.Millisecond

// completeJobs completes the first argument with the jobs there are, or with the tenants. A server that does not answer completes
// nothing: a shell is no place for errors.
func (f *controlFlags) completeJobs(jobs bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		conn := f.conn
		conn.timeout = completePatience
		nc, err := conn.dial()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer nc.Close()
		c := &client{nc: nc, timeout: completePatience}
		var names []string
		if jobs {
			var page control.JobPage
			_, err = c.read(cmd.Context(), everything, "jobs", control.PageRequest{Limit: 1000}, &page)
			for _, j := range page.Jobs {
				names = append(names, j.Tenant+"/"+j.Job)
			}
		} else {
			var page control.TenantPage
			_, err = c.read(cmd.Context(), everything, "tenants", control.PageRequest{Limit: 1000}, &page)
			for _, t := range page.Tenants {
				names = append(names, t.Tenant)
			}
		}
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
