package queue

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/encoding/protowire"
)

//go:embed servers.lua
var serversLua string

var servers = redis.NewScript(serversLua)

// ServerInfo describes a server by its last heartbeat, some seconds ago at most.
type ServerInfo struct {
	Host     string
	PID      int
	Started  time.Time
	Stopping bool        // it takes no more tasks
	Slots    []Occupancy // in no order
}

// Occupancy tells how a server's slots for one queue are used.
type Occupancy struct {
	Queue string
	Slots int // most tasks at a time
	Busy  int // tasks now, if they were read
}

// ReadServers lists the servers that live, without their busy slots, with one command on a Redis that is no cluster.
// A heartbeat that cannot be read is left out.
func ReadServers(ctx context.Context, r redis.UniversalClient) ([]ServerInfo, error) {
	now := strconv.FormatInt(time.Now().Unix(), 10)
	var beats []string
	var err error
	if _, cluster := r.(*redis.ClusterClient); cluster {
		beats, err = clusterBeats(ctx, r, now)
	} else {
		beats, err = servers.Run(ctx, r, []string{serversKey}, now).StringSlice()
	}
	if err != nil {
		return nil, fmt.Errorf("list the workers: %w", err)
	}
	var all []ServerInfo
	for _, beat := range beats {
		if s, ok := decodeServer([]byte(beat)); ok {
			all = append(all, s)
		}
	}
	return all, nil
}

// clusterBeats reads the heartbeats from a cluster, where each may be on a node of its own.
func clusterBeats(ctx context.Context, r redis.UniversalClient, now string) ([]string, error) {
	keys, err := r.ZRangeByScore(ctx, serversKey, &redis.ZRangeBy{Min: now, Max: "+inf"}).Result()
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	pipe := r.Pipeline()
	replies := make([]*redis.StringCmd, len(keys))
	for i, key := range keys {
		replies[i] = pipe.Get(ctx, key)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	var beats []string
	for _, reply := range replies {
		if beat, err := reply.Result(); err == nil {
			beats = append(beats, beat)
		}
	}
	return beats, nil
}

// Field numbers of asynq's ServerInfo (internal/proto/asynq.proto of v0.26), of an entry of
// its map of queues, and of a timestamp.
const (
	serverHost    protowire.Number = 1
	serverPID     protowire.Number = 2
	serverQueues  protowire.Number = 5
	serverStatus  protowire.Number = 7
	serverStarted protowire.Number = 8

	entryKey   protowire.Number = 1
	entryValue protowire.Number = 2

	timeSeconds protowire.Number = 1
)

// decodeServer reads a heartbeat. It returns false for a damaged one.
func decodeServer(beat []byte) (ServerInfo, bool) {
	var s ServerInfo
	whole := eachValue(beat, func(field protowire.Number, text []byte, number uint64) {
		switch field {
		case serverHost:
			s.Host = string(text)
		case serverPID:
			s.PID = int(number)
		case serverStatus:
			s.Stopping = string(text) == "stopped" || string(text) == "closed"
		case serverStarted:
			eachValue(text, func(field protowire.Number, _ []byte, number uint64) {
				if field == timeSeconds {
					s.Started = time.Unix(int64(number), 0)
				}
			})
		case serverQueues:
			var of Occupancy
			eachValue(text, func(field protowire.Number, text []byte, number uint64) {
				switch field {
				case entryKey:
					of.Queue = string(text)
				case entryValue:
					of.Slots = int(number)
				}
			})
			s.Slots = append(s.Slots, of)
		}
	})
	return s, whole && s.Host != ""
}

// eachValue calls see with all fields that hold bytes or a number. It returns false when
// the message is damaged.
func eachValue(message []byte, see func(field protowire.Number, text []byte, number uint64)) bool {
	for rest := message; len(rest) > 0; {
		field, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return false
		}
		size := protowire.ConsumeFieldValue(field, kind, rest[n:])
		if size < 0 {
			return false
		}
		switch kind {
		case protowire.BytesType:
			text, _ := protowire.ConsumeBytes(rest[n:])
			see(field, text, 0)
		case protowire.VarintType:
			number, _ := protowire.ConsumeVarint(rest[n:])
			see(field, nil, number)
		}
		rest = rest[n+size:]
	}
	return true
}
