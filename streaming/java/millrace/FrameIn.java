package millrace;

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
    out.collect(
        Frames.source(at, record.partition(), record.offset(), record.timestamp(), record.key(), record.value()));
  }

  @Override
  public TypeInformation<byte[]> getProducedType() {
    return PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;
  }
}
