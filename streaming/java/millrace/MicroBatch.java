package millrace;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.flink.api.common.eventtime.IndexedCombinedWatermarkStatus;
import org.apache.flink.api.common.operators.MailboxExecutor;
import org.apache.flink.api.common.state.BroadcastState;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.metrics.Counter;
import org.apache.flink.runtime.state.KeyedStateBackend;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.operators.Input;
import org.apache.flink.streaming.api.operators.InternalTimer;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.MultipleInputStreamOperator;
import org.apache.flink.streaming.api.operators.Triggerable;
import org.apache.flink.streaming.api.operators.python.embedded.AbstractEmbeddedPythonFunctionOperator;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.LatencyMarker;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;
import org.apache.flink.util.OutputTag;
import org.apache.flink.util.function.ThrowingConsumer;

/**
 * One keyed stage in Python, called once for each micro-batch. A batch is what has arrived by the time the mailbox
 * gets to it: one record at low load, hundreds at high load; a timer is set only where a stage has to wait for
 * its turn.
 */
final class MicroBatch extends AbstractEmbeddedPythonFunctionOperator<byte[]>
    implements MultipleInputStreamOperator<byte[]>, Triggerable<String, VoidNamespace> {
  private static final long serialVersionUID = 1;
  private static final TypeInformation<byte[]> BYTES = PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;

  /** Records for topics, each behind its tag: the one output that the sink of the stage reads. */
  static final OutputTag<byte[]> TO_TOPICS = new OutputTag<>("topics", BYTES);

  private static final long TIDY_MS = 20;

  private final Job.Stage stage;
  private final KeyOf mainKey;
  private final String deployment;
  private final boolean merges;
  private final int maxRecords;
  private final int maxBytes;
  private final Set<Integer> topics;
  private final Set<Integer> rows;

  private transient KeyedStateBackend<String> backend;
  private transient Kept state;
  private transient Waiting waiting;
  private transient Kept log;
  private transient ListState<byte[]> snapshots;
  private transient ListState<String> caughtUp;
  private transient BroadcastState<String, byte[]> announced;
  private transient MailboxExecutor mailbox;
  private transient Resident resident;
  private transient Calls calls;
  private transient Order order;
  private transient IndexedCombinedWatermarkStatus merged;
  private transient long forwarded;
  private transient boolean ticking;
  private transient long received;
  private transient long seen;
  private transient long called;
  private transient Counter batches;

  /**
   * `topics`: tags that go to topics; `rows`: tags that another stage reads; `merges`: main records come from several
   * partitions; `deployment`: unique to this one.
   */
  MicroBatch(
      Configuration config, Job job, Job.Stage stage, Set<Integer> topics, Set<Integer> rows, boolean merges,
      String deployment) {
    super(config);
    this.stage = stage;
    this.mainKey = new KeyOf(stage.main().key());
    this.deployment = deployment;
    this.merges = merges;
    this.maxRecords = job.batch();
    this.maxBytes = job.batchBytes();
    this.topics = topics;
    this.rows = rows;
  }

  static OutputTag<byte[]> toStage(int tag) {
    return new OutputTag<>("row-" + tag, BYTES);
  }

  @Override
  public void initializeState(StateInitializationContext context) throws Exception {
    super.initializeState(context);
    var store = context.getOperatorStateStore();
    snapshots = store.getUnionListState(new ListStateDescriptor<>("resident", BYTES)); // each task gets all
    caughtUp = store.getUnionListState(new ListStateDescriptor<>("caught-up", Types.STRING));
    announced = store.getBroadcastState(new MapStateDescriptor<>("control", Types.STRING, BYTES));
    var whole = new ValueStateDescriptor<>("state", BYTES);
    var since = new ValueStateDescriptor<>("log", BYTES);
    if (stage.ttlMs() > 0) {
      var ttl = StateTtlConfig.newBuilder(Duration.ofMillis(stage.ttlMs())).cleanupIncrementally(1, false).build();
      whole.enableTimeToLive(ttl);
      since.enableTimeToLive(ttl);
    }
    backend = getKeyedStateBackend();
    state = new Kept(backend, context.getKeyedStateStore(), whole);
    log = stage.rows() > 0 ? new Kept(backend, context.getKeyedStateStore(), since) : null;
    var task = getRuntimeContext().getTaskInfo();
    waiting = stage.waitMs() < 0 ? null : new Waiting(backend, task, mainKey, stage.waitMs(), stage.ttlMs());
    boolean live = context.isRestored();
    for (String one : caughtUp.get()) {
      live &= one.equals(deployment);
    }
    order = new Order(stage, merges, live, backend, this::put);
  }

  @Override
  public void open() throws Exception {
    super.open();
    merged = IndexedCombinedWatermarkStatus.forInputsCount(stage.side() == null ? 1 : 2);
    forwarded = Frames.NONE;
    InternalTimerService<VoidNamespace> timers =
        getInternalTimerService("timers", VoidNamespaceSerializer.INSTANCE, this);
    Batch batch = new Batch(maxRecords, maxBytes);
    calls = new Calls(resident, backend, state, log, waiting, timers, batch, stage.rows());
    mailbox = getContainingTask().getMailboxExecutorFactory().createExecutor(getOperatorConfig().getChainIndex());
    batches = getMetricGroup().counter("batches");
    getMetricGroup().gauge("held", order::held);
    for (byte[] snapshot : snapshots.get()) {
      resident.call("restore", snapshot);
    }
    for (Map.Entry<String, byte[]> one : announced.immutableEntries()) {
      control(one.getValue());
    }
    order.release();
    if (stage.rows() > 0) {
      tidy();
    }
  }

  @Override
  public void openPythonInterpreter() {
    int subtask = getRuntimeContext().getTaskInfo().getIndexOfThisSubtask();
    resident = new Resident(interpreter, stage.opener(), stage.spec(), subtask);
  }

  @Override
  public void close() throws Exception {
    try {
      if (resident != null) {
        resident.close();
      }
    } finally {
      super.close();
    }
  }

  @Override
  protected void invokeFinishBundle() throws Exception {
    flush();
    if (stage.asked()) {
      emit(calls.run());
    }
  }

  @Override
  public void snapshotState(StateSnapshotContext context) throws Exception {
    super.snapshotState(context);
    calls.checkpoint();
    order.write();
    caughtUp.update(List.of(order.live() ? deployment : ""));
    byte[] snapshot = resident.call("snapshot", new byte[0]);
    snapshots.update(snapshot.length == 0 ? List.of() : List.of(snapshot));
  }

  // In

  @Override
  @SuppressWarnings("rawtypes")
  public List<Input> getInputs() {
    List<Input> inputs = new ArrayList<>();
    inputs.add(new Port(Gate.MAIN, frame -> order.main(mainKey.getKey(frame), frame)));
    if (stage.side() != null) {
      KeyOf key = new KeyOf(stage.side().key());
      inputs.add(new Port(Gate.SIDE, frame -> order.side(key.getKey(frame), frame)));
    }
    if (stage.control() != null) {
      inputs.add(new Port(Gate.CONTROL, this::announce));
    }
    return inputs;
  }

  /** One input: what it carries goes to `take`, its watermarks also to the next stages. */
  private final class Port implements Input<byte[]> {
    private final int index;
    private final ThrowingConsumer<byte[], Exception> take;

    Port(int index, ThrowingConsumer<byte[], Exception> take) {
      this.index = index;
      this.take = take;
    }

    @Override
    public void processElement(StreamRecord<byte[]> record) throws Exception {
      received++;
      take.accept(record.getValue());
    }

    @Override
    public void processWatermark(Watermark mark) throws Exception {
      order.advance(index, mark.getTimestamp());
      if (index != Gate.CONTROL) {
        merged.updateWatermark(index, mark.getTimestamp());
      }
      forward();
    }

    @Override
    public void processWatermarkStatus(WatermarkStatus status) throws Exception {
      order.idle(index, status.isIdle());
      boolean wasIdle = merged.isIdle();
      if (index != Gate.CONTROL) {
        merged.updateStatus(index, status.isIdle());
      }
      forward();
      if (wasIdle != merged.isIdle()) {
        output.emitWatermarkStatus(merged.isIdle() ? WatermarkStatus.IDLE : WatermarkStatus.ACTIVE);
      }
    }

    @Override
    public void processLatencyMarker(LatencyMarker marker) {
      reportOrForwardLatencyMarker(marker);
    }

    @Override
    public void setKeyContextElement(StreamRecord<byte[]> record) {} // state is read once a batch, by key
  }

  private void announce(byte[] frame) throws Exception {
    flush();
    String key = Frames.sourceKey(frame);
    byte[] value = Frames.sourceValue(frame);
    if (value == null) {
      announced.remove(key == null ? "" : key);
    } else {
      announced.put(key == null ? "" : key, value);
      control(value);
    }
  }

  private void control(byte[] value) {
    emit(new Response(resident.call("control", value), 0));
  }

  private void put(int port, String key, byte[] frame) throws Exception {
    if (port == Frames.SIDE && stage.side().tag() != null && Frames.place(frame) != Frames.LAST) {
      flush(); // it stands between two events: a batch tells events by their times
    }
    calls.put(port, key, frame);
    pace();
  }

  private void forward() throws Exception {
    long mark = order.forward(merged.getCombinedWatermark());
    if (mark > forwarded) {
      flush();
      forwarded = mark;
      output.emitWatermark(new Watermark(mark));
    }
  }

  // Batches

  private void pace() throws Exception {
    if (calls.full()) {
      flush();
    } else if (!ticking && (calls.size() > 0 || stage.waitMs() > 0)) {
      ticking = true;
      seen = 0;
      mailbox.execute(this::tick, "micro-batch");
    }
  }

  /**
   * Runs when the mailbox gets to it: goes round while records keep coming, also such as wait here without joining the
   * batch, flushes when none came and it is time.
   */
  private void tick() throws Exception {
    long early = stage.paceMs() - (System.nanoTime() - called) / 1_000_000;
    if (received > seen) {
      seen = received;
      mailbox.execute(this::tick, "micro-batch");
    } else if (early > 0) {
      var clock = getProcessingTimeService();
      clock.registerTimer(clock.getCurrentProcessingTime() + early, now -> tock());
    } else {
      tock();
    }
  }

  private void tock() throws Exception {
    ticking = false;
    called = System.nanoTime();
    flush();
  }

  /** Process the batch, then the timers that are due by the event time it reached. */
  private void flush() throws Exception {
    run();
    if (order.clock() != Frames.NONE) {
      for (long due = calls.due(); due <= order.clock(); due = calls.due()) {
        advance(due);
        calls.time();
        runIfFull();
      }
      advance(order.clock());
      run();
    }
  }

  private void advance(long time) throws Exception {
    if (getTimeServiceManager().isPresent()) {
      getTimeServiceManager().get().advanceWatermark(new Watermark(time));
    }
  }

  @Override
  public void onEventTime(InternalTimer<String, VoidNamespace> timer) throws Exception {
    calls.time(timer.getKey(), timer.getTimestamp());
    runIfFull();
  }

  @Override
  public void onProcessingTime(InternalTimer<String, VoidNamespace> timer) {
    throw new IllegalStateException("found a timer in processing time, expected none: " + timer);
  }

  private void runIfFull() throws Exception {
    if (calls.full()) {
      run();
    }
  }

  private void run() throws Exception {
    if (calls.size() > 0) {
      emit(calls.run());
      batches.inc();
    }
  }

  /** Now and then: what is handed over now does not hold up the next checkpoint. */
  private void tidy() throws Exception {
    calls.tidy();
    var clock = getProcessingTimeService();
    clock.registerTimer(clock.getCurrentProcessingTime() + TIDY_MS, now -> tidy());
  }

  // Out

  private void emit(Response response) {
    response.forEachOutput(
        (tag, bytes, start, end) -> {
          if (topics.contains(tag)) {
            byte[] frame = new byte[1 + end - start];
            frame[0] = (byte) tag;
            System.arraycopy(bytes, start, frame, 1, end - start);
            output.collect(TO_TOPICS, new StreamRecord<>(frame));
          } else if (rows.contains(tag)) {
            output.collect(toStage(tag), new StreamRecord<>(Arrays.copyOfRange(bytes, start, end)));
          } else {
            throw new IllegalStateException(
                "stage " + stage.uid() + " put out a record under tag " + tag + ", expected one of " + topics
                    + " (topics) or " + rows + " (stages)");
          }
        });
  }
}
