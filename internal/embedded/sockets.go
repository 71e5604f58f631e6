package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// maxSocketPath is the longest path of a socket in bytes. macOS allows 104 and Linux 108,
// each with a final zero.
const maxSocketPath = 100

// socketDir is a folder for the two sockets.
type socketDir struct {
	path   string
	shared bool // below the system's temporary folder, where another user may have created it
}

func (d socketDir) supervisor() string { return filepath.Join(d.path, "supervisor.sock") }
func (d socketDir) redis() string      { return filepath.Join(d.path, "redis.sock") }

// socketDirs lists the possible places of a folder's sockets, the preferred one first.
func socketDirs(dir string) []socketDir {
	var dirs []socketDir
	if in := (socketDir{path: dir}); len(in.supervisor()) < maxSocketPath {
		dirs = append(dirs, in)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return dirs
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		name := fmt.Sprintf("neuronmill-%d-%x-%x", os.Getuid(), stat.Dev, stat.Ino)
		dirs = append(dirs, socketDir{filepath.Join(os.TempDir(), name), true})
	}
	return dirs
}

// check refuses a folder that other users may write to. Another user may have created a
// predictable name in a shared folder.
func (d socketDir) check() error {
	if !d.shared {
		return nil
	}
	info, err := os.Lstat(d.path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is not a folder of this user alone", d.path)
	}
	return nil
}

// remove removes the sockets of a server that has stopped.
func (d socketDir) remove() {
	_ = os.Remove(d.supervisor())
	_ = os.Remove(d.redis())
	if d.shared {
		_ = os.Remove(d.path)
	}
}
