package millrace;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.TimestampType;

/** The Java side of tests/unit/streaming/test_frames_java.py: reads one question after another, answers each. */
public final class Twin {
  private final DataInputStream in;
  private DataOutputStream out;

  private Twin(DataInputStream in) {
    this.in = in;
  }

  /** Questions on standard input, answers on standard output, each behind its length. */
  public static void main(String[] arguments) throws Exception {
    Twin twin = new Twin(new DataInputStream(new BufferedInputStream(System.in)));
    DataOutputStream answers = new DataOutputStream(new BufferedOutputStream(System.out));
    for (int question = twin.in.read(); question >= 0; question = twin.in.read()) {
      ByteArrayOutputStream answer = new ByteArrayOutputStream();
      twin.out = new DataOutputStream(answer);
      twin.answer((char) question);
      answers.writeInt(answer.size());
      answer.writeTo(answers);
      answers.flush();
    }
  }

  private void answer(char question) throws Exception {
    switch (question) {
      case 'q' -> request();
      case 'w' -> rows();
      case 'r' -> response();
      case 'p' -> pool();
      case 'd' -> dues();
      case 'i' -> frameIn();
      case 'o' -> frameOut();
      case 'k' -> key();
      default -> throw new IllegalArgumentException("question " + question);
    }
  }

  private byte[] blob() throws IOException {
    int length = in.readInt();
    return length < 0 ? null : in.readNBytes(length);
  }

  private String text() throws IOException {
    return new String(blob(), StandardCharsets.UTF_8);
  }

  private void blob(byte[] bytes) throws IOException {
    out.writeInt(bytes == null ? -1 : bytes.length);
    if (bytes != null) {
      out.write(bytes);
    }
  }

  private void request() throws IOException {
    int n = in.readInt();
    Batch batch = new Batch(Math.max(n, 1), Integer.MAX_VALUE);
    Rows rows = new Rows(4 * batch.capacity(), batch.capacity());
    for (int i = 0; i < n; i++) {
      int port = in.readByte();
      batch.add(port, text(), blob());
    }
    batch.resolve(rows);
    List<Batch.Admitted> admitted = new ArrayList<>();
    for (int row : rows.admitted()) {
      admitted.add(new Batch.Admitted(row, rows.key(row), blob(), blob()));
    }
    out.write(batch.request(admitted, rows.admitted().stream().mapToInt(Integer::intValue).toArray()));
    batch.clear();
    rows.clear();
  }

  /** Of each batch: the rows of its keys, which come in, which are given up, and which of those, and then, go over. */
  private void rows() throws Exception {
    int room = in.readInt();
    Rows rows = new Rows(4 * room, room);
    for (int batches = in.readInt(); batches > 0; batches--) {
      for (int size = in.readInt(); size > 0; size--) {
        out.writeInt(rows.of(text()));
      }
      write(rows.admitted().stream().mapToInt(Integer::intValue).toArray());
      int[] victims = rows.victims();
      write(victims);
      write(Arrays.stream(victims).filter(rows::isChanged).toArray());
      for (int row : victims) {
        rows.free(row);
      }
      rows.next();
      write(rows.take(in.readInt()));
    }
  }

  private void write(int[] numbers) throws IOException {
    out.writeInt(numbers.length);
    for (int number : numbers) {
      out.writeInt(number);
    }
  }

  /** What each step found: a row frame comes (c) or is taken (t), chunks are written (w) or read (r), some age (e). */
  private void pool() throws Exception {
    Pool.Sizes sizes = new Pool.Sizes(64, 256, 128);
    TreeMap<Long, byte[]> stored = new TreeMap<>();
    Pool pool = new Pool(sizes);
    int steps = in.readInt();
    for (int now = 0; now < steps; now++) {
      switch ((char) in.readByte()) {
        case 'c' -> {
          byte[] frame = blob();
          pool.add(Frames.rowKey(frame).hashCode(), frame, now);
        }
        case 't' -> {
          String key = text();
          Pool from = pool;
          long place = pool.find(key.hashCode(), one -> Frames.rowKey(from.frame(one)).equals(key));
          blob(place < 0 ? null : Frames.waiting(pool.frame(place)));
          if (place >= 0) {
            pool.take(key.hashCode(), place);
          }
        }
        case 'w' -> {
          pool.write((number, bytes) -> stored.compute(number, (same, old) -> bytes));
          out.writeInt(stored.values().stream().mapToInt(bytes -> bytes.length).sum());
        }
        case 'e' -> pool.expire(now - in.readInt());
        case 'r' -> {
          pool = new Pool(sizes);
          for (Map.Entry<Long, byte[]> one : stored.entrySet()) {
            pool.read(one.getKey(), one.getValue());
          }
        }
        default -> throw new IllegalArgumentException("step");
      }
      out.writeInt(pool.size());
    }
  }

  private void dues() throws IOException {
    Dues dues = new Dues();
    for (int left = in.readInt(); left > 0; left--) {
      int number = in.readInt();
      if (number >= 0) {
        dues.add(in.readLong(), number);
      } else {
        out.writeLong(dues.first());
        out.writeInt(dues.remove());
      }
    }
    out.writeBoolean(dues.isEmpty());
  }

  private void response() throws Exception {
    int keys = in.readInt();
    Response response;
    try {
      response = new Response(blob(), keys);
    } catch (IllegalStateException | IndexOutOfBoundsException refused) {
      out.writeBoolean(false);
      return;
    }
    out.writeBoolean(true);
    response.forEachKey(
        (key, state, isLog, timer) -> {
          blob(new byte[] {(byte) key, (byte) (isLog ? 1 : 0)});
          blob(Long.toString(timer).getBytes(StandardCharsets.UTF_8));
          blob(state);
        });
    List<byte[]> outputs = new ArrayList<>();
    response.forEachOutput(
        (tag, bytes, start, end) -> {
          outputs.add(new byte[] {(byte) tag});
          outputs.add(Arrays.copyOfRange(bytes, start, end));
        });
    for (byte[] output : outputs) {
      blob(output);
    }
  }

  private void frameIn() throws IOException {
    FrameIn schema = new FrameIn(in.readBoolean(), in.readLong());
    int partition = in.readInt();
    long offset = in.readLong();
    long timestamp = in.readLong();
    ConsumerRecord<byte[], byte[]> record =
        new ConsumerRecord<>(
            "t", partition, offset, timestamp, TimestampType.CREATE_TIME, 0, 0, blob(), blob(), new RecordHeaders(),
            Optional.empty());
    List<byte[]> frames = new ArrayList<>();
    schema.deserialize(
        record,
        new Collector<>() {
          @Override
          public void collect(byte[] frame) {
            frames.add(frame);
          }

          @Override
          public void close() {}
        });
    out.write(frames.get(0));
  }

  private void frameOut() throws IOException {
    var record = new FrameOut(Map.of(8, "eight", 9, "nine")).serialize(blob(), null, null);
    blob(record.topic().getBytes(StandardCharsets.UTF_8));
    blob(record.key());
    blob(record.value());
    for (Header header : record.headers()) {
      blob(header.key().getBytes(StandardCharsets.UTF_8));
      blob(header.value());
    }
  }

  private void key() throws IOException {
    KeyOf key = new KeyOf(new Job.Key(text(), text()));
    out.write(key.getKey(blob()).getBytes(StandardCharsets.UTF_8));
  }
}
