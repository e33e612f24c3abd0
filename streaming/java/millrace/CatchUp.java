package millrace;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.connector.source.Boundedness;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.Source;
import org.apache.flink.api.connector.source.SourceEvent;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.KafkaSourceEnumState;
import org.apache.flink.connector.kafka.source.split.KafkaPartitionSplit;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.core.io.SimpleVersionedSerializer;

/**
 * A Kafka source that also says which partitions have nothing to catch up on: `EventTime` learns a partition's place
 * from its records only, and nobody should wait for a record that will not come.
 */
final class CatchUp implements Source<byte[], KafkaPartitionSplit, KafkaSourceEnumState> {
  private static final long serialVersionUID = 1;

  /** The target of a partition that held no record. */
  static final long NOTHING = 0;

  private final KafkaSource<byte[]> kafka;
  private final long[] targets;

  CatchUp(KafkaSource<byte[]> kafka, long[] targets) {
    this.kafka = kafka;
    this.targets = targets;
  }

  /** Whether a partition whose next record is at `position` has caught up; new partitions have nothing to. */
  static boolean reached(long[] targets, int partition, long position) {
    return partition >= targets.length || targets[partition] == NOTHING || position >= targets[partition];
  }

  @Override
  public SourceReader<byte[], KafkaPartitionSplit> createReader(SourceReaderContext context) throws Exception {
    return new Reader(kafka.createReader(context));
  }

  @Override
  public Boundedness getBoundedness() {
    return kafka.getBoundedness();
  }

  @Override
  public SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> createEnumerator(
      SplitEnumeratorContext<KafkaPartitionSplit> context) {
    return kafka.createEnumerator(context);
  }

  @Override
  public SplitEnumerator<KafkaPartitionSplit, KafkaSourceEnumState> restoreEnumerator(
      SplitEnumeratorContext<KafkaPartitionSplit> context, KafkaSourceEnumState state) throws Exception {
    return kafka.restoreEnumerator(context, state);
  }

  @Override
  public SimpleVersionedSerializer<KafkaPartitionSplit> getSplitSerializer() {
    return kafka.getSplitSerializer();
  }

  @Override
  public SimpleVersionedSerializer<KafkaSourceEnumState> getEnumeratorCheckpointSerializer() {
    return kafka.getEnumeratorCheckpointSerializer();
  }

  /** Kafka's reader, and a watermark for each of its partitions that start where they have caught up. */
  private final class Reader implements SourceReader<byte[], KafkaPartitionSplit> {
    private final SourceReader<byte[], KafkaPartitionSplit> reader;

    /** Partitions that came before the output was known. */
    private final List<KafkaPartitionSplit> unannounced = new ArrayList<>();

    private ReaderOutput<byte[]> output;

    Reader(SourceReader<byte[], KafkaPartitionSplit> reader) {
      this.reader = reader;
    }

    @Override
    public InputStatus pollNext(ReaderOutput<byte[]> output) throws Exception {
      if (this.output != output) {
        this.output = output;
        announce();
      }
      return reader.pollNext(output);
    }

    @Override
    public void addSplits(List<KafkaPartitionSplit> splits) {
      unannounced.addAll(splits);
      reader.addSplits(splits);
      if (output != null) { // all of this runs in the mailbox of the task
        announce();
      }
    }

    private void announce() {
      for (KafkaPartitionSplit split : unannounced) {
        if (reached(targets, split.getPartition(), split.getStartingOffset())) {
          output.createOutputForSplit(split.splitId()).emitWatermark(new Watermark(Frames.LIVE));
        }
      }
      unannounced.clear();
    }

    @Override
    public void start() {
      reader.start();
    }

    @Override
    public List<KafkaPartitionSplit> snapshotState(long checkpoint) {
      return reader.snapshotState(checkpoint);
    }

    @Override
    public CompletableFuture<Void> isAvailable() {
      return reader.isAvailable();
    }

    @Override
    public void notifyNoMoreSplits() {
      reader.notifyNoMoreSplits();
    }

    @Override
    public void handleSourceEvents(SourceEvent event) {
      reader.handleSourceEvents(event);
    }

    @Override
    public void notifyCheckpointComplete(long checkpoint) throws Exception {
      reader.notifyCheckpointComplete(checkpoint);
    }

    @Override
    public void notifyCheckpointAborted(long checkpoint) throws Exception {
      reader.notifyCheckpointAborted(checkpoint);
    }

    @Override
    public void pauseOrResumeSplits(Collection<String> pause, Collection<String> resume) {
      reader.pauseOrResumeSplits(pause, resume);
    }

    @Override
    public void close() throws Exception {
      reader.close();
    }
  }
}
