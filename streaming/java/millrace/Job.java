package millrace;

import java.io.Serializable;
import java.util.List;
import java.util.Map;

/** A job as streaming/flink.py describes it; the twin of its dataclasses, which say what the fields mean. */
public record Job(
    String name,
    String brokers,
    List<Input> inputs,
    List<Stage> stages,
    Map<Integer, String> sinks,
    int parallelism,
    int maxParallelism,
    int batch,
    int batchBytes,
    long skewMs,
    long driftMs,
    String start,
    boolean exactlyOnce,
    Map<String, String> consumer,
    Map<String, String> producer,
    Map<String, String> settings,
    String fingerprint) {

  /** A topic that is read. */
  public record Input(String topic, boolean times, int waitMs) {}

  /** How a frame is keyed. */
  public record Key(String kind, String field) implements Serializable {}

  /** What a stage reads: a topic, or what an earlier stage put out under a tag. */
  public record Port(String source, Integer tag, Key key) implements Serializable {}

  /** One keyed Python stage. */
  public record Stage(
      String uid, String opener, String spec, Port main, Port side, String control, boolean hold, long ttlMs, int rows,
      long waitMs, int paceMs, boolean asked, int parallelism)
      implements Serializable {}
}
