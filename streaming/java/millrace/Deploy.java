package millrace;

import java.time.Duration;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Scanner;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.PropertyNamingStrategies;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.operators.SimpleOperatorFactory;
import org.apache.flink.streaming.api.transformations.KeyedMultipleInputTransformation;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsResult;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.OffsetResetStrategy;
import org.apache.kafka.common.TopicPartition;

/** Job description → Flink job: what the JobManager runs when streaming/flink.py submits one. */
public final class Deploy {
  private static final PrimitiveArrayTypeInfo<byte[]> BYTES = PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO;

  private final Job job;
  private final StreamExecutionEnvironment environment;
  private final String deployment = UUID.randomUUID().toString();
  private final Map<String, DataStream<byte[]>> sources = new HashMap<>();
  private final Map<String, DataStream<byte[]>> controls = new HashMap<>();
  private final Map<String, SingleOutputStreamOperator<byte[]>> stages = new HashMap<>();

  /** Topics and stages whose watermarks say how far in event time they have been read. */
  private final Set<String> timed = new HashSet<>();

  /** Topics and stages whose records come from several partitions, tasks or inputs, in no order. */
  private final Set<String> mixed = new HashSet<>();

  private Deploy(Job job) {
    this.job = job;
    this.environment = StreamExecutionEnvironment.getExecutionEnvironment(Configuration.fromMap(job.settings()));
    environment.setParallelism(job.parallelism());
    environment.setMaxParallelism(job.maxParallelism());
  }

  /** The one argument is the job as JSON. */
  public static void main(String[] arguments) throws Exception {
    ObjectMapper mapper = new ObjectMapper().setPropertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE);
    Job job = mapper.readValue(arguments[0], Job.class);
    String here = fingerprint();
    if (!here.equals(job.fingerprint())) {
      throw new IllegalStateException(
          "the cluster runs Millrace's operators " + here + ", expected " + job.fingerprint()
              + ": restart its processes with this version's library folder");
    }
    new Deploy(job).build().executeAsync(job.name());
  }

  private static String fingerprint() {
    var resource = Deploy.class.getResourceAsStream("/millrace.fingerprint");
    try (Scanner scanner = new Scanner(resource)) {
      return scanner.next();
    }
  }

  private StreamExecutionEnvironment build() throws Exception {
    Map<String, Object> client =
        Map.of(
            "bootstrap.servers", job.brokers(), "request.timeout.ms", "10000", "default.api.timeout.ms", "15000");
    try (Admin admin = Admin.create(client)) {
      for (Job.Input input : job.inputs()) {
        long[] targets = targets(admin, input.topic());
        sources.put(input.topic(), source(input, targets));
        if (input.times()) {
          timed.add(input.topic());
        }
        if (targets.length > 1) {
          mixed.add(input.topic());
        }
      }
      for (Job.Stage stage : job.stages()) {
        if (stage.control() != null && !controls.containsKey(stage.control())) {
          controls.put(stage.control(), control(stage.control(), targets(admin, stage.control())));
        }
      }
    }
    for (Job.Stage stage : job.stages()) {
      stages.put(stage.uid(), stage(stage));
    }
    return environment;
  }

  /** End offset of every partition as of now; where a partition holds no record, CatchUp.NOTHING. */
  private static long[] targets(Admin admin, String topic) throws Exception {
    try {
      int count = admin.describeTopics(Set.of(topic)).allTopicNames().get().get(topic).partitions().size();
      long[] targets = new long[count];
      var first = offsets(admin, topic, count, OffsetSpec.earliest());
      var last = offsets(admin, topic, count, OffsetSpec.latest());
      for (int i = 0; i < count; i++) {
        TopicPartition partition = new TopicPartition(topic, i);
        long end = last.partitionResult(partition).get().offset();
        targets[i] = first.partitionResult(partition).get().offset() < end ? end : CatchUp.NOTHING;
      }
      return targets;
    } catch (ExecutionException e) {
      throw new IllegalStateException(
          "topic " + topic + ": found no way to read its end offsets (" + e.getCause().getMessage()
              + "), expected an existing topic on a broker that answers");
    }
  }

  private static ListOffsetsResult offsets(
      Admin admin, String topic, int count, OffsetSpec spec) {
    Map<TopicPartition, OffsetSpec> specs = new HashMap<>();
    for (int i = 0; i < count; i++) {
      specs.put(new TopicPartition(topic, i), spec);
    }
    return admin.listOffsets(specs);
  }

  private KafkaSource<byte[]> kafka(Job.Input input, OffsetsInitializer start) {
    Properties properties = new Properties();
    properties.putAll(job.consumer());
    if (input.waitMs() > 0) {
      properties.put("fetch.max.wait.ms", Integer.toString(input.waitMs()));
      properties.put("fetch.min.bytes", "65536"); // worth a fetch of their own
    }
    return KafkaSource.<byte[]>builder()
        .setBootstrapServers(job.brokers())
        .setTopics(input.topic())
        .setGroupId("millrace-" + job.name())
        .setClientIdPrefix("millrace-" + job.name() + "-" + input.topic())
        .setStartingOffsets(start)
        .setDeserializer(new FrameIn(input.times(), job.skewMs()))
        .setProperties(properties)
        .build();
  }

  /** A topic as a stream. No more tasks read it than it has partitions: nobody should wait for those without one. */
  @SuppressWarnings("deprecation") // the connector knows no other way to say "earliest" yet
  private DataStream<byte[]> source(Job.Input input, long[] targets) {
    OffsetsInitializer start =
        job.start().equals("committed")
            ? OffsetsInitializer.committedOffsets(OffsetResetStrategy.EARLIEST)
            : OffsetsInitializer.earliest();
    WatermarkStrategy<byte[]> marks = WatermarkStrategy.forGenerator(new EventTime(targets));
    if (job.driftMs() > 0 && input.times()) {
      marks = marks.withWatermarkAlignment(job.name(), Duration.ofMillis(job.driftMs()), Duration.ofMillis(100));
    }
    CatchUp source = new CatchUp(kafka(input, start), targets);
    int readers = Math.min(environment.getParallelism(), targets.length);
    return environment.fromSource(source, marks, input.topic(), BYTES).uid(input.topic()).setParallelism(readers);
  }

  private DataStream<byte[]> control(String topic, long[] targets) {
    CatchUp source = new CatchUp(kafka(new Job.Input(topic, false, 0), OffsetsInitializer.earliest()), targets);
    WatermarkStrategy<byte[]> marks = WatermarkStrategy.forGenerator(new EventTime(targets));
    return environment.fromSource(source, marks, topic, BYTES).uid(topic).setParallelism(1).broadcast();
  }

  private SingleOutputStreamOperator<byte[]> stage(Job.Stage stage) {
    int parallelism = stage.parallelism() > 0 ? stage.parallelism() : job.parallelism();
    MicroBatch operator =
        new MicroBatch(
            (Configuration) environment.getConfiguration(),
            job,
            stage,
            new HashSet<>(job.sinks().keySet()),
            read(stage.uid()),
            merges(stage, parallelism),
            deployment);
    KeyedMultipleInputTransformation<byte[]> transformation =
        new KeyedMultipleInputTransformation<>(
            stage.uid(), SimpleOperatorFactory.of(operator), BYTES, parallelism, Types.STRING);
    for (Job.Port port : stage.side() == null ? List.of(stage.main()) : List.of(stage.main(), stage.side())) {
      KeyOf key = new KeyOf(port.key());
      transformation.addInput(stream(port, stage).keyBy(key, Types.STRING).getTransformation(), key);
    }
    if (stage.control() != null) {
      transformation.addInput(controls.get(stage.control()).getTransformation(), null);
    }
    transformation.setUid(stage.uid());
    environment.addOperator(transformation);
    var stream = new Stream(environment, transformation);
    stream.getSideOutput(MicroBatch.TO_TOPICS).sinkTo(sink(stage.uid())).uid(stage.uid() + "-topics")
        .name(stage.uid() + " topics");
    return stream;
  }

  /** Whether a stage has to put its main records in order; notes what those that read it have to know. */
  private boolean merges(Job.Stage stage, int parallelism) {
    Job.Port main = stage.main();
    boolean isMixed = mixed.contains(main.source());
    boolean isTimed = timed.contains(main.source());
    if (isMixed || parallelism > 1 || stage.side() != null && !stage.hold()) {
      mixed.add(stage.uid());
    }
    if (isTimed && (stage.side() == null || timed.contains(stage.side().source()))) {
      timed.add(stage.uid());
    }
    // A record's key is in one partition: where no side tells it anything, nothing depends on other partitions.
    // One that is read from the record, as an id, may be in several.
    return isMixed && isTimed && (main.tag() != null || stage.hold() || main.key().kind().equals("json"));
  }

  /** What `port` of a stage reads; where it waits for its turn anyway, it need not be woken for each record. */
  private DataStream<byte[]> stream(Job.Port port, Job.Stage stage) {
    DataStream<byte[]> stream =
        port.tag() == null
            ? sources.get(port.source())
            : stages.get(port.source()).getSideOutput(MicroBatch.toStage(port.tag()));
    int wait = stage.paceMs() / 4;
    if (wait <= environment.getBufferTimeout()) {
      return stream;
    }
    String name = port.source() + " for " + stage.uid();
    return stream.map(record -> record).returns(BYTES).setParallelism(stream.getParallelism())
        .setBufferTimeout(wait).uid(name).name(name);
  }

  /** The tags of a stage that other stages read. */
  private Set<Integer> read(String uid) {
    Set<Integer> tags = new HashSet<>();
    for (Job.Stage stage : job.stages()) {
      for (Job.Port port : stage.side() == null ? List.of(stage.main()) : List.of(stage.main(), stage.side())) {
        if (port.tag() != null && port.source().equals(uid)) {
          tags.add(port.tag());
        }
      }
    }
    return tags;
  }

  private KafkaSink<byte[]> sink(String uid) {
    Properties properties = new Properties();
    properties.putAll(job.producer());
    return KafkaSink.<byte[]>builder()
        .setBootstrapServers(job.brokers())
        .setRecordSerializer(new FrameOut(new TreeMap<>(job.sinks())))
        .setDeliveryGuarantee(
            job.exactlyOnce() ? DeliveryGuarantee.EXACTLY_ONCE : DeliveryGuarantee.AT_LEAST_ONCE)
        .setTransactionalIdPrefix("millrace-" + job.name() + "-" + uid)
        .setKafkaProducerConfig(properties)
        .build();
  }

  /** A stream of a transformation that this class made itself: the constructor of its class is protected. */
  private static final class Stream extends SingleOutputStreamOperator<byte[]> {
    Stream(StreamExecutionEnvironment environment, KeyedMultipleInputTransformation<byte[]> transformation) {
      super(environment, transformation);
    }
  }
}
