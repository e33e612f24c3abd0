package millrace;

import java.util.Arrays;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/** Kafka record → source frame, whatever its bytes are. */
final class FrameIn implements KafkaRecordDeserializationSchema<byte[]> {
  private static final long serialVersionUID = 1;
  private final boolean times;
  private final long skew;

  /** The newest event time of each partition. */
  private long[] newest = {};

  /** `times`: read event times; one further than `skew` ms after its record's timestamp is not believed. */
  FrameIn(boolean times, long skew) {
    this.times = times;
    this.skew = skew;
  }

  @Override
  public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<byte[]> out) {
    long at = times ? Json.integer(record.value(), "at") : Frames.NONE;
    if (at > record.timestamp() + skew) {
      at = Frames.NONE;
    }
    int partition = record.partition();
    long reach = reach(partition, at);
    out.collect(
        Frames.source(at, reach, partition, record.offset(), record.timestamp(), record.key(), record.value()));
  }

  private long reach(int partition, long at) {
    if (partition >= newest.length) {
      int known = newest.length;
      newest = Arrays.copyOf(newest, partition + 1);
      Arrays.fill(newest, known, newest.length, Frames.NONE);
    }
    newest[partition] = Math.max(newest[partition], at);
    return newest[partition];
  }

  @Override
  public TypeInformation<byte[]> getProducedType() {
    return PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;
  }
}
