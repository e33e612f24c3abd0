package millrace;

import java.util.concurrent.atomic.AtomicLong;
import pemja.core.PythonInterpreter;

/**
 * The Python object of one operator. Its methods are the only way in: pemja keeps a borrowed reference to functions
 * that are called by name, and crashes the process when two of them alternate.
 */
final class Resident implements AutoCloseable {
  /** All operators of a process share one Python namespace, also those of other jobs and of attempts before. */
  private static final AtomicLong INSTANCES = new AtomicLong();

  private final PythonInterpreter python;
  private final String name;

  /** Calls `opener` ("module:function") with the specification of the stage and the index of the subtask. */
  Resident(PythonInterpreter python, String opener, String spec, int subtask) {
    this.python = python;
    this.name = "millrace_stage_" + INSTANCES.incrementAndGet();
    String[] path = opener.split(":", 2);
    python.set(name + "_spec", spec);
    python.exec(
        String.format(
            "import importlib\n%1$s = importlib.import_module('%2$s').%3$s(%1$s_spec, %4$d)\ndel %1$s_spec",
            name, path[0], path[1], subtask));
  }

  /** A Python exception comes back as an exception with its traceback. */
  byte[] call(String method, byte[] argument) {
    return (byte[]) python.invokeMethod(name, method, (Object) argument);
  }

  @Override
  public void close() {
    call("close", new byte[0]);
    python.exec("del " + name);
  }
}
