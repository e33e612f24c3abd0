package millrace;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.kafka.clients.producer.ProducerRecord;

/** Tag and sink frame → Kafka record for the topic of that tag. */
final class FrameOut implements KafkaRecordSerializationSchema<byte[]> {
  private static final long serialVersionUID = 1;
  private static final int HEADER = 13;
  private final Map<Integer, String> topics;

  FrameOut(Map<Integer, String> topics) {
    this.topics = topics;
  }

  @Override
  public ProducerRecord<byte[], byte[]> serialize(byte[] frame, KafkaSinkContext context, Long timestamp) {
    int keyLength = Frames.getInt(frame, 1);
    int valueLength = Frames.getInt(frame, 5);
    int headers = Frames.getInt(frame, 9);
    int keyStart = HEADER + 8 * headers;
    int valueStart = keyStart + Math.max(keyLength, 0);
    int p = valueStart + Math.max(valueLength, 0);
    byte[] key = keyLength < 0 ? null : Arrays.copyOfRange(frame, keyStart, valueStart);
    byte[] value = valueLength < 0 ? null : Arrays.copyOfRange(frame, valueStart, p);
    ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topics.get((int) frame[0]), key, value);
    for (int i = 0; i < headers; i++) {
      int nameEnd = p + Frames.getInt(frame, HEADER + 8 * i);
      int end = nameEnd + Frames.getInt(frame, HEADER + 8 * i + 4);
      String name = new String(frame, p, nameEnd - p, StandardCharsets.UTF_8);
      record.headers().add(name, Arrays.copyOfRange(frame, nameEnd, end));
      p = end;
    }
    return record;
  }
}
