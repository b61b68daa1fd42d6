package weircli

import (
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes an exclusive lock that lasts until the file is closed or the process ends. It covers a byte far behind the
// content, because a locked range cannot be read by others.
func lockFile(f *os.File) error {
	const farBehind = 1 << 30
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
		0, 1, 0, &windows.Overlapped{Offset: farBehind})
}
