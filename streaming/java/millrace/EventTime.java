package millrace;

import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkGenerator;
import org.apache.flink.api.common.eventtime.WatermarkGeneratorSupplier;
import org.apache.flink.api.common.eventtime.WatermarkOutput;
import org.apache.flink.util.clock.RelativeClock;

/**
 * Watermarks of one partition: its event time while the source catches up with what was there when the job was
 * deployed, `Frames.LIVE` from then on.
 */
final class EventTime implements WatermarkGeneratorSupplier<byte[]> {
  private static final long serialVersionUID = 1;

  /**
   * So long after its last record, a partition has none before its target: what is there is the marker of a
   * transaction. Also how long a task waits to be given a partition at all, where others were given several.
   */
  private static final long SILENT_MS = 10_000;

  private final long[] targets;

  /** `targets`: for each partition the offset at which it has caught up. */
  EventTime(long[] targets) {
    this.targets = targets;
  }

  @Override
  public WatermarkGenerator<byte[]> createWatermarkGenerator(Context context) {
    return new Partition(context.getInputActivityClock());
  }

  private final class Partition implements WatermarkGenerator<byte[]> {
    /** Stands still while the input is blocked or held back by alignment: then silence means nothing. */
    private final RelativeClock clock;

    private long heard;
    private long latest = Frames.NONE;
    private boolean live;

    Partition(RelativeClock clock) {
      this.clock = clock;
      this.heard = clock.relativeTimeMillis();
    }

    @Override
    public void onEvent(byte[] frame, long timestamp, WatermarkOutput output) {
      if (live) {
        return;
      }
      heard = clock.relativeTimeMillis();
      latest = Math.max(latest, Frames.at(frame));
      if (CatchUp.reached(targets, Frames.partition(frame), Frames.offset(frame) + 1)) {
        live = true;
        output.emitWatermark(new Watermark(Frames.LIVE));
      }
    }

    @Override
    public void onPeriodicEmit(WatermarkOutput output) {
      if (live) {
        return;
      }
      if (clock.relativeTimeMillis() - heard >= SILENT_MS) {
        output.markIdle();
      } else if (latest != Frames.NONE) {
        output.emitWatermark(new Watermark(latest - 1)); // others of the same time may follow
      }
    }
  }
}
