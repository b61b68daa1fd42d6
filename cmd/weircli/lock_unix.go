//go:build unix

package weircli

import (
	"os"
	"syscall"
)

// lockFile takes an exclusive lock that lasts until the file is closed or the process ends.
func lockFile(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
