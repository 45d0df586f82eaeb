// FerretDB 2 in front of PostgreSQL with the extension DocumentDB: stands in for MongoDB in tests of
// what FerretDB on SQLite cannot do. Runs PostgreSQL itself, and stops it at its own end.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/FerretDB/FerretDB/v2/ferretdb"
	"github.com/jackc/pgx/v5"
)

// Usage: ferretdb2 <address> <data folder> <folder of PostgreSQL's programs>
func main() {
	// PostgreSQL gets its signal when the thread that started it ends.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, address, data, programs string) error {
	cluster := filepath.Join(data, "postgres")
	if _, err := os.Stat(cluster); err != nil {
		initdb := exec.Command(filepath.Join(programs, "initdb"), "--pgdata", cluster,
			"--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
		if output, err := initdb.CombinedOutput(); err != nil {
			return fmt.Errorf("initdb: %w: %s", err, output)
		}
	}
	if err := waitForEnd(ctx, filepath.Join(cluster, "postmaster.pid")); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	arguments := []string{"-D", cluster}
	for _, setting := range []string{
		fmt.Sprintf("port=%d", port),
		"listen_addresses=127.0.0.1",
		"unix_socket_directories=",
		"max_connections=200",
		"max_worker_processes=20",
		"shared_preload_libraries=pg_cron,pg_documentdb_core,pg_documentdb",
		"cron.use_background_workers=on",
		// Upserts of the same new key deadlock. Only a quick end lets one of them through.
		"deadlock_timeout=1ms",
		"log_min_messages=fatal",
	} {
		arguments = append(arguments, "-c", setting)
	}
	postgres := exec.Command(filepath.Join(programs, "postgres"), arguments...)
	postgres.Stdout, postgres.Stderr = os.Stderr, os.Stderr
	postgres.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if err := postgres.Start(); err != nil {
		return err
	}
	ctx, ended := context.WithCancel(ctx)
	exit := make(chan error, 1)
	go func() {
		exit <- postgres.Wait()
		ended()
	}()
	defer func() {
		postgres.Process.Signal(syscall.SIGINT)
		<-exit
	}()

	url := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", port)
	if err := prepare(ctx, url); err != nil {
		return err
	}
	telemetry := false
	server, err := ferretdb.New(&ferretdb.Config{
		PostgreSQLURL: url + "?pool_max_conns=100",
		ListenAddr:    address,
		StateDir:      data,
		LogOutput:     os.Stderr,
		Telemetry:     &telemetry,
	})
	if err != nil {
		return err
	}
	server.Run(ctx)
	return nil
}

// Waits until the process of an earlier run is gone, which may have been killed a moment ago.
// PostgreSQL does not start while its id is in use, even by a zombie.
func waitForEnd(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil // it has ended by itself, or there was none
	}
	id, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(id)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, 0) == nil; {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("process %d of an earlier PostgreSQL does not end", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// Waits for PostgreSQL, and creates the extension.
func prepare(ctx context.Context, url string) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		connection, err := pgx.Connect(ctx, url)
		if err == nil {
			defer connection.Close(ctx)
			_, err = connection.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS documentdb CASCADE")
			return err
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
