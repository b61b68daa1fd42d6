// Package weircli is Weir's command line as a package. A team's own binary has every command by handing it their topologies:
//
//	func main() {
//		weircli.Main(weircli.App{Name: "orders", Version: "1.4.0", Topologies: []func() (*processor.Topology, error){revenue.Topology}})
//	}
//
// Invariant: commands decide nothing that the library does not; they turn flags into configurations and results into text, JSON
// and exit codes. Nothing below cmd/ reads a flag or the environment.
//
// Exit codes: 0, done and all is well; 1, the answer is no (check found something missing, verify found a deviation, a benchmark
// computed a wrong result, a job failed); 2, the command could not do its work or cannot judge (wrong usage, no server, input that
// retention has removed).
//
// The package refuses to start two servers or two workers of one identity on one data folder, and never alters a stream on a
// server it was pointed at.
package weircli
