import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.time.*;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.*;

/**
 * The checkout's payments service in Java: plain Kafka client, plain JDBC, no library of Kompensate's.
 *
 * The rules: docs/guides/wire.md. One command, one database transaction: claim its row of the inbox, do the work, keep
 * the answer, add it to the outbox. An error that is not the command's own ends the process: the next reads it again.
 */
public record Payments(Connection db, KafkaProducer<byte[], byte[]> letters, String dead) {
    static final String SERVICE = "payments", JSON = "application/json";

    record Money(String order_id, String customer, long cents) {}
    record Command(String id, String type, String sagaId, String replyTo, int replyPartition, String compensates,
            Instant expires, String traceparent, String tracestate) {}

    record Answer(String outcome, String type, byte[] payload) {}
    static final class Refused extends Exception {}

    static final ObjectMapper JSONS = new ObjectMapper().disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
            .enable(DeserializationFeature.FAIL_ON_MISSING_CREATOR_PROPERTIES);

    void handle(ConsumerRecord<byte[], byte[]> record) throws Exception {
        Command command;
        try {
            command = read(record);
        } catch (RuntimeException error) { // nobody to answer
            bury(record, error.toString());
            return;
        }
        Answer answer = claim(command.id);
        if (answer == null) {
            answer = judge(command, record);
            update("UPDATE inbox SET state = 'answered', outcome = ?, reply_type = ?, reply = ?, content_type = ? "
                    + "WHERE consumer = ? AND command_id = ?",
                    answer.outcome, answer.type, answer.payload, JSON, SERVICE, command.id);
        }
        String id = UUID.randomUUID().toString(); // each delivery is answered by a row of its own
        update("INSERT INTO outbox (id, aggregatetype, aggregateid, partition, type, payload, ce_id, ce_source, "
                + "content_type, ce_correlationid, ce_causationid, ce_replyoutcome, traceparent, tracestate) "
                + "VALUES (?::uuid, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                id, command.replyTo, command.sagaId, command.replyPartition, answer.type, answer.payload, id,
                "kompensate:" + SERVICE, JSON, command.sagaId, command.id, answer.outcome,
                command.traceparent, command.tracestate);
        db.commit();
    }

    /** The barrier: what becomes of a command that was not answered before. */
    Answer judge(Command command, ConsumerRecord<byte[], byte[]> record) throws Exception {
        if (command.compensates == null) {
            if (command.expires == null || !command.expires.isBefore(Instant.now())) return work(command, record);
            return no("expired", "expired at " + command.expires);
        }
        Answer forward = claim(command.compensates);
        if (forward == null) {
            update("UPDATE inbox SET state = 'cancelled' WHERE consumer = ? AND command_id = ?",
                    SERVICE, command.compensates);
            return no("done", "command " + command.compensates + " never arrived");
        }
        if (forward.outcome.equals("done")) return work(command, record);
        return no("done", "command " + command.compensates + " had no effect");
    }

    /** Claim a command's row. Null: nobody has seen it. Waits while another transaction holds it. */
    Answer claim(String id) throws Exception {
        if (update("INSERT INTO inbox (consumer, command_id, state) VALUES (?, ?, 'claimed') ON CONFLICT DO NOTHING",
                SERVICE, id) == 1) return null;
        try (PreparedStatement ask = db.prepareStatement(
                "SELECT state, outcome, reply_type, reply FROM inbox WHERE consumer = ? AND command_id = ?")) {
            ask.setString(1, SERVICE);
            ask.setString(2, id);
            ResultSet row = ask.executeQuery();
            if (!row.next()) throw new SQLException("inbox row of " + id + ": expected it, and it was just deleted");
            return row.getString("state").equals("cancelled") ? no("refused", "compensated before it arrived")
                    : new Answer(row.getString("outcome"), row.getString("reply_type"), row.getBytes("reply"));
        }
    }

    /** The handler, at a savepoint: what it refuses, or cannot do, it leaves undone. */
    Answer work(Command command, ConsumerRecord<byte[], byte[]> record) throws Exception {
        Savepoint before = db.setSavepoint();
        Exception spoilt;
        try {
            switch (command.type) {
                case "payments.Charge" -> charge(command.id, JSONS.readValue(record.value(), Money.class));
                case "payments.Refund" -> refund(command.id, JSONS.readValue(record.value(), Money.class));
                default -> throw new IllegalArgumentException("no handler for " + command.type);
            }
            return new Answer("done", SERVICE + ".Done", "null".getBytes());
        } catch (Refused refused) {
            db.rollback(before);
            return no("refused", "card declined");
        } catch (IOException | IllegalArgumentException | SQLException error) {
            // 22, 23: data that the tables do not take. All else of SQL is not the command's fault.
            if (error instanceof SQLException s && !String.valueOf(s.getSQLState()).matches("2[23].*")) throw error;
            spoilt = error;
        }
        db.rollback(before);
        bury(record, spoilt.toString(), "failed");
        return no("failed", spoilt.toString());
    }

    void charge(String id, Money m) throws Exception {
        if (update("UPDATE card SET owed = owed + ? WHERE customer = ? AND NOT blocked", m.cents, m.customer) == 0)
            throw new Refused();
        book(id, m, "charge", m.cents);
    }

    void refund(String id, Money m) throws Exception {
        update("UPDATE card SET owed = owed - ? WHERE customer = ?", m.cents, m.customer);
        book(id, m, "refund", -m.cents);
    }

    void book(String id, Money m, String kind, long cents) throws SQLException {
        update("INSERT INTO ledger (command_id, order_id, kind, customer, cents) VALUES (?, ?, ?, ?, ?)",
                id, m.order_id, kind, m.customer, cents);
    }

    Answer no(String outcome, String reason) throws IOException {
        String type = SERVICE + (outcome.equals("done") ? ".NothingToUndo" : ".No");
        return new Answer(outcome, type, JSONS.writeValueAsBytes(Map.of("reason", reason, "detail", Map.of())));
    }

    /** A dead letter is in Kafka before its transaction commits: a crash between the two may double it, not lose it. */
    void bury(ConsumerRecord<byte[], byte[]> record, String reason, String... answered) throws Exception {
        var letter = new ProducerRecord<>(dead, null, record.key(), record.value(), record.headers());
        Map.of("q_reason", reason, "q_topic", record.topic(), "q_partition", "" + record.partition(),
                "q_offset", "" + record.offset(), "q_time", Instant.now().toString())
                .forEach((name, text) -> letter.headers().add(name, text.getBytes(StandardCharsets.UTF_8)));
        for (String outcome : answered) letter.headers().add("q_answered", outcome.getBytes());
        letters.send(letter).get();
    }

    static Command read(ConsumerRecord<byte[], byte[]> r) {
        String expires = text(r, "ce_expirytime");
        return new Command(needed(r, "ce_id"), needed(r, "ce_type"), needed(r, "ce_correlationid"),
                needed(r, "ce_replyto"), Integer.parseInt(needed(r, "ce_replypartition")), text(r, "ce_compensates"),
                expires == null ? null : OffsetDateTime.parse(expires).toInstant(),
                text(r, "traceparent"), text(r, "tracestate"));
    }

    static String needed(ConsumerRecord<byte[], byte[]> record, String name) {
        return Objects.requireNonNull(text(record, name), "header " + name + ": expected text, got nothing");
    }

    /** A header's text; null where it is absent or null. PostgreSQL's texts hold no NUL. */
    static String text(ConsumerRecord<byte[], byte[]> record, String name) {
        var header = record.headers().lastHeader(name);
        if (header == null || header.value() == null) return null;
        String text = new String(header.value(), StandardCharsets.UTF_8);
        if (text.indexOf(0) >= 0) throw new IllegalArgumentException("header " + name + ": expected no NUL");
        return text;
    }

    int update(String statement, Object... values) throws SQLException {
        try (PreparedStatement prepared = db.prepareStatement(statement)) {
            for (int n = 0; n < values.length; n++) prepared.setObject(n + 1, values[n]);
            return prepared.executeUpdate();
        }
    }

    public static void main(String[] arguments) throws Exception {
        String prefix = System.getenv().getOrDefault("KOMPENSATE_PREFIX", "");
        Map<String, Object> options = new HashMap<>(); // such as KOMPENSATE_KAFKA="security.protocol=SSL"
        for (String option : System.getenv().getOrDefault("KOMPENSATE_KAFKA", "").split(" "))
            if (!option.isEmpty()) options.put(option.split("=", 2)[0], option.split("=", 2)[1]);
        options.put("bootstrap.servers", System.getenv().getOrDefault("KOMPENSATE_BOOTSTRAP", "127.0.0.1:9092"));
        options.putAll(Map.of("group.id", prefix + SERVICE, "enable.auto.commit", "false",
                "auto.offset.reset", "earliest", "isolation.level", "read_committed", "acks", "all"));
        var bytes = new ByteArrayDeserializer();
        try (var db = DriverManager.getConnection(arguments[0]);
                var letters = new KafkaProducer<>(options, new ByteArraySerializer(), new ByteArraySerializer());
                var commands = new KafkaConsumer<>(options, bytes, bytes)) {
            db.setAutoCommit(false); // READ COMMITTED: who waited for a claim must see what became of it
            var service = new Payments(db, letters, prefix + SERVICE + ".dead");
            commands.subscribe(List.of(prefix + SERVICE + ".commands"));
            Thread main = Thread.currentThread();
            Runtime.getRuntime().addShutdownHook(new Thread(() -> {
                commands.wakeup(); // SIGTERM: what is in hand is finished
                try { main.join(10_000); } catch (InterruptedException ignored) { }
            }));
            while (true) {
                for (var record : commands.poll(Duration.ofSeconds(1))) service.handle(record);
                commands.commitSync();
            }
        } catch (WakeupException told) {
            System.err.println("told to stop");
        }
    }
}
