// Python in a thread of its own. It is told { number, source } and answers { number, outputs }; told that a control was moved,
// { control, value }, it answers { parts, values }; told { reset: true } it forgets what the cells defined. It says { state }
// while it loads, and { failed } where it cannot.
import { loadPyodide } from "./pyodide.mjs";

const fetched = async (name) => {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
};

const begin = async () => {
  postMessage({ state: "loading Python" });
  const files = Promise.all(["cbor2.whl", "packages.zip"].map(fetched));
  const python = await loadPyodide();
  postMessage({ state: "loading coreota" });
  const [cbor2, packages] = await files;
  python.unpackArchive(cbor2, "wheel", { extractDir: "/packages" });
  python.unpackArchive(packages, "zip", { extractDir: "/packages" });
  python.FS.mkdirTree("/packages/nbs");
  python.FS.chdir("/packages/nbs"); // where the notebooks lie, with their data
  python.runPython("import sys; sys.path[:0] = ['/packages']; from kernel import Kernel; kernel = Kernel()");
  return python;
};

const loaded = begin();
loaded.then(
  () => postMessage({ state: "ready" }),
  (error) => postMessage({ failed: String(error.message ?? error) }),
);

onmessage = async ({ data }) => {
  const python = await loaded;
  if (data.reset) {
    python.runPython("kernel = Kernel()");
    return;
  }
  try {
    const kernel = python.globals.get("kernel");
    if (data.control !== undefined) postMessage(JSON.parse(kernel.moved_to_json(data.control, data.value)));
    else postMessage({ number: data.number, outputs: JSON.parse(kernel.run_to_json(data.source, data.number)) });
    kernel.destroy();
  } catch (error) { // Python itself came to its end, for instance where the stack overflows
    postMessage({ failed: String(error.message ?? error) });
  }
};
