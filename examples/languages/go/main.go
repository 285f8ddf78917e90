// The checkout's inventory service in Go: franz-go and pgx, no library of Kompensate's.
//
// The rules: docs/guides/wire.md. One command, one database transaction: claim its row of the inbox, do the work, keep
// the answer, add it to the outbox. An error that is not the command's own ends the process: the next reads it again.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"
)

const service, asJSON = "inventory", "application/json"

var (
	always = context.Background()
	db     *pgx.Conn
	kafka  *kgo.Client
)

// Each command changes a title's discs, or is refused where there is nothing to change, and is booked by its kind.
var handlers = map[string]struct{ kind, change string }{
	"inventory.Reserve": {"reserve",
		"available = available - $2, reserved = reserved + $2 WHERE sku = $1 AND available >= $2"},
	"inventory.Release": {"release", "available = available + $2, reserved = reserved - $2 WHERE sku = $1"},
	"inventory.Confirm": {"sell", "reserved = reserved - $2, sold = sold + $2 WHERE sku = $1"},
}

type command map[string]string // headers; absent and null are the same

type answer struct {
	outcome, kind string
	payload       []byte
}

func no(outcome, reason string) *answer {
	payload, _ := json.Marshal(map[string]any{"reason": reason, "detail": map[string]any{}})
	return &answer{outcome, service + ".No", payload}
}

type transaction struct{ pgx.Tx }

func (tx transaction) exec(statement string, values ...any) int64 {
	return must(tx.Exec(always, statement, values...)).RowsAffected()
}

// claim takes a command's row; nil: nobody has seen it. It waits while another transaction holds the row.
func (tx transaction) claim(id string) *answer {
	if tx.exec("INSERT INTO inbox (consumer, command_id, state) VALUES ($1, $2, 'claimed') ON CONFLICT DO NOTHING",
		service, id) == 1 {
		return nil
	}
	found, state := answer{}, ""
	check(tx.QueryRow(always, "SELECT state, coalesce(outcome, ''), coalesce(reply_type, ''), reply FROM inbox "+
		"WHERE consumer = $1 AND command_id = $2", service, id).Scan(&state, &found.outcome, &found.kind, &found.payload))
	if state == "cancelled" {
		return no("refused", "compensated before it arrived")
	}
	return &found
}

func handle(r *kgo.Record) {
	c, err := read(r)
	if err != nil { // nobody to answer
		bury(r, err)
		return
	}
	tx := transaction{must(db.Begin(always))} // READ COMMITTED: who waited for a claim must see what became of it
	found := tx.claim(c["ce_id"])
	if found == nil {
		found = judge(tx, r, c)
		tx.exec("UPDATE inbox SET state = 'answered', outcome = $1, reply_type = $2, reply = $3, content_type = $4 "+
			"WHERE consumer = $5 AND command_id = $6", found.outcome, found.kind, found.payload, asJSON, service, c["ce_id"])
	}
	// Each delivery is answered by a row of its own.
	tx.exec("INSERT INTO outbox (id, ce_id, aggregatetype, aggregateid, partition, type, payload, ce_source, "+
		"content_type, ce_correlationid, ce_causationid, ce_replyoutcome, traceparent, tracestate) SELECT id, id::text, "+
		"$1, $2, $3::text::int, $4, $5, $6, $7, $2, $8, $9, nullif($10, ''), nullif($11, '') FROM gen_random_uuid() AS id",
		c["ce_replyto"], c["ce_correlationid"], c["ce_replypartition"], found.kind, found.payload, "kompensate:"+service,
		asJSON, c["ce_id"], found.outcome, c["traceparent"], c["tracestate"])
	check(tx.Commit(always))
}

// judge is the barrier: what becomes of a command that was not answered before.
func judge(tx transaction, r *kgo.Record, c command) *answer {
	if of := c["ce_compensates"]; of != "" {
		forward := tx.claim(of)
		if forward == nil {
			tx.exec("UPDATE inbox SET state = 'cancelled' WHERE consumer = $1 AND command_id = $2", service, of)
		}
		if forward == nil || forward.outcome != "done" {
			return no("done", "command "+of+" had no effect")
		}
	} else if expires, err := time.Parse(time.RFC3339Nano, c["ce_expirytime"]); err == nil && expires.Before(time.Now()) {
		return no("expired", "expired at "+c["ce_expirytime"])
	}
	return work(tx, r, c)
}

// work runs the handler at a savepoint. 22, 23: data that the tables do not take; all else is not the command's fault.
func work(tx transaction, r *kgo.Record, c command) (found *answer) {
	savepoint := transaction{must(tx.Begin(always))}
	defer func() {
		if spoilt, _ := recover().(error); spoilt != nil {
			if sql, is := spoilt.(*pgconn.PgError); is && sql.Code[:2] != "22" && sql.Code[:2] != "23" {
				panic(spoilt)
			}
			check(savepoint.Rollback(always))
			bury(r, spoilt, kgo.RecordHeader{Key: "q_answered", Value: []byte("failed")})
			found = no("failed", spoilt.Error())
		}
	}()
	var d struct {
		Order_ID, SKU string
		Quantity      int
	}
	check(json.Unmarshal(r.Value, &d))
	handler, known := handlers[c["ce_type"]]
	if !known {
		panic(fmt.Errorf("no handler for %s", c["ce_type"]))
	}
	if savepoint.exec("UPDATE stock SET "+handler.change, d.SKU, d.Quantity) == 0 {
		check(savepoint.Rollback(always))
		return no("refused", "out of stock")
	}
	savepoint.exec("INSERT INTO movement (command_id, order_id, kind, sku, quantity) VALUES ($1, $2, $3, $4, $5)",
		c["ce_id"], d.Order_ID, handler.kind, d.SKU, d.Quantity)
	check(savepoint.Commit(always))
	return &answer{"done", service + ".Done", []byte("null")}
}

// bury returns when Kafka has the dead letter: a crash before the commit may double it, not lose it.
func bury(r *kgo.Record, reason error, more ...kgo.RecordHeader) {
	headers := append(append([]kgo.RecordHeader{}, r.Headers...), more...)
	for name, text := range map[string]string{"q_reason": reason.Error(), "q_topic": r.Topic, "q_time": time.Now().UTC().
		Format(time.RFC3339Nano), "q_partition": fmt.Sprint(r.Partition), "q_offset": fmt.Sprint(r.Offset)} {
		headers = append(headers, kgo.RecordHeader{Key: name, Value: []byte(text)})
	}
	dead := strings.TrimSuffix(r.Topic, ".commands") + ".dead"
	letter := &kgo.Record{Topic: dead, Key: r.Key, Value: r.Value, Headers: headers}
	check(kafka.ProduceSync(always, letter).FirstErr())
}

func read(r *kgo.Record) (command, error) {
	c := command{}
	for _, header := range r.Headers {
		if text := string(header.Value); !strings.Contains(text, "\x00") { // which PostgreSQL's texts cannot hold
			c[header.Key] = text
		}
	}
	for _, name := range []string{"ce_id", "ce_type", "ce_correlationid", "ce_replyto", "ce_replypartition"} {
		if c[name] == "" {
			return nil, fmt.Errorf("header %s: expected text, got none", name)
		}
	}
	if _, err := time.Parse(time.RFC3339Nano, c["ce_expirytime"]); err != nil && c["ce_expirytime"] != "" {
		return nil, err
	}
	_, err := strconv.ParseInt(c["ce_replypartition"], 10, 32)
	return c, err
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func main() {
	prefix := os.Getenv("KOMPENSATE_PREFIX")
	told, stop := signal.NotifyContext(always, syscall.SIGTERM, os.Interrupt)
	defer stop()
	db = must(pgx.Connect(always, os.Args[1]))
	kafka = must(kgo.NewClient(kgo.SeedBrokers(strings.Split(os.Getenv("KOMPENSATE_BOOTSTRAP"), ",")...),
		kgo.ConsumerGroup(prefix+service), kgo.ConsumeTopics(prefix+service+".commands"), kgo.DisableAutoCommit(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(2*time.Second), kgo.BlockRebalanceOnPoll()))
	defer kafka.CloseAllowingRebalance()
	for told.Err() == nil {
		kafka.PollRecords(told, 500).EachRecord(handle)
		check(kafka.CommitUncommittedOffsets(always))
		kafka.AllowRebalance()
	}
}
