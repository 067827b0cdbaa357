// scan, draw and log_partition: addresses from jsarag/backends/native into parameter structs.
#include "jsarag/scan.h"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/ops.h"
#include "jsarag/draw.h"
#include "jsarag/log_partition.h"

namespace py = pybind11;

namespace jsarag::bindings {
namespace {

// What the ops have in common.
struct ScanInputs {
  QueriesView queries;
  PassagesView passages;
  ExcludeView exclude;
  float inv_temperature;
  int threads;
};

PassagesView passages_view(uintptr_t data, int type, int64_t row_bytes, uintptr_t scales,
                           int64_t count, int64_t width) {
  return {pointer<const void>(data),
          static_cast<ScalarType>(type),
          row_bytes,
          pointer<const float>(scales),
          count,
          width};
}

}  // namespace

void bind_scan(py::module_& m) {
  m.attr("TILE") = kTile;
  for (const char* op : {"scan", "draw", "log_partition"}) announce(m, "CPU_OPS", op);

  py::class_<PassagesView>(m, "PassagesView")
      .def(py::init(&passages_view), py::kw_only(), py::arg("data"), py::arg("type"),
           py::arg("row_bytes"), py::arg("scales"), py::arg("count"), py::arg("width"));

  py::class_<ScanInputs>(m, "ScanInputs")
      .def(py::init([](uintptr_t queries, int64_t batch, const PassagesView& passages,
                       uintptr_t exclude, int64_t per_query, double inv_temperature, int threads) {
             return ScanInputs{{pointer<const float>(queries), batch, passages.width},
                               passages,
                               {pointer<const int64_t>(exclude), per_query},
                               static_cast<float>(inv_temperature),
                               threads};
           }),
           py::kw_only(), py::arg("queries"), py::arg("batch"), py::arg("passages"),
           py::arg("exclude"), py::arg("per_query"), py::arg("inv_temperature"),
           py::arg("threads"));

  m.def(
      "scan_cpu",
      [](const ScanInputs& in, int64_t k, uintptr_t ids, uintptr_t scores, uintptr_t tile_lse,
         const std::optional<PassagesView>& exact, uintptr_t row_error, uintptr_t row_norm) {
        CertifyView certify{};
        if (exact)
          certify = {*exact, pointer<const float>(row_error), pointer<const float>(row_norm)};
        py::gil_scoped_release release;
        scan_cpu({in.queries, in.passages, in.exclude, exact ? &certify : nullptr, k,
                  in.inv_temperature, in.threads, pointer<int64_t>(ids), pointer<float>(scores),
                  pointer<float>(tile_lse)});
      },
      py::arg("inputs"), py::kw_only(), py::arg("k"), py::arg("ids"), py::arg("scores"),
      py::arg("tile_lse"), py::arg("exact"), py::arg("row_error"), py::arg("row_norm"));

  m.def(
      "row_errors_cpu",
      [](const PassagesView& rounded, const PassagesView& exact, int threads, uintptr_t row_error,
         uintptr_t row_norm) {
        py::gil_scoped_release release;
        row_errors_cpu(
            {rounded, exact, threads, pointer<float>(row_error), pointer<float>(row_norm)});
      },
      py::kw_only(), py::arg("rounded"), py::arg("exact"), py::arg("threads"), py::arg("row_error"),
      py::arg("row_norm"));

  m.def(
      "draw_cpu",
      [](const ScanInputs& in, uintptr_t tile_lse, uintptr_t uniforms, int64_t draws, uintptr_t ids,
         uintptr_t logp) {
        py::gil_scoped_release release;
        draw_cpu({in.queries, in.passages, in.exclude, in.inv_temperature, in.threads,
                  pointer<const float>(tile_lse), pointer<const double>(uniforms), draws,
                  pointer<int64_t>(ids), pointer<float>(logp)});
      },
      py::arg("inputs"), py::kw_only(), py::arg("tile_lse"), py::arg("uniforms"), py::arg("draws"),
      py::arg("ids"), py::arg("logp"));

  m.def(
      "log_partition_cpu",
      [](const ScanInputs& in, uintptr_t lse) {
        py::gil_scoped_release release;
        log_partition_cpu({in.queries, in.passages, in.exclude, in.inv_temperature, in.threads,
                           pointer<float>(lse)});
      },
      py::arg("inputs"), py::kw_only(), py::arg("lse"));

  m.def(
      "log_partition_backward_cpu",
      [](const ScanInputs& in, uintptr_t lse, uintptr_t grad, uintptr_t gradient) {
        py::gil_scoped_release release;
        log_partition_backward_cpu({in.queries, in.passages, in.exclude, in.inv_temperature,
                                    in.threads, pointer<const float>(lse),
                                    pointer<const float>(grad), pointer<float>(gradient)});
      },
      py::arg("inputs"), py::kw_only(), py::arg("lse"), py::arg("grad"), py::arg("gradient"));

#if JSARAG_WITH_CUDA
  for (const char* op : {"scan", "draw", "log_partition"}) announce(m, "CUDA_OPS", op);

  // Runs or measures a scan: `use` gets its parameters.
  const auto with_scan = [](const ScanInputs& in, int64_t k, uintptr_t ids, uintptr_t scores,
                            uintptr_t tile_lse, const std::optional<PassagesView>& exact,
                            uintptr_t row_error, uintptr_t row_norm, const auto& use) {
    CertifyView certify{};
    if (exact) certify = {*exact, pointer<const float>(row_error), pointer<const float>(row_norm)};
    return use(ScanParams{in.queries, in.passages, in.exclude, exact ? &certify : nullptr, k,
                          in.inv_temperature, in.threads, pointer<int64_t>(ids),
                          pointer<float>(scores), pointer<float>(tile_lse)});
  };
  m.def(
      "scan_cuda_scratch",
      [with_scan](const ScanInputs& in, int64_t k, bool tile_lse,
                  const std::optional<PassagesView>& exact, int device) {
        // What is no null pointer is asked for; nothing is read.
        return with_scan(in, k, 0, 0, tile_lse ? 1 : 0, exact, 1, 1, [&](const ScanParams& params) {
          return scan_cuda_scratch(params, device);
        });
      },
      py::arg("inputs"), py::kw_only(), py::arg("k"), py::arg("tile_lse"), py::arg("exact"),
      py::arg("device"));
  m.def(
      "scan_cuda",
      [with_scan](const ScanInputs& in, int64_t k, uintptr_t ids, uintptr_t scores,
                  uintptr_t tile_lse, const std::optional<PassagesView>& exact, uintptr_t row_error,
                  uintptr_t row_norm, const CudaCall& call) {
        py::gil_scoped_release release;
        with_scan(in, k, ids, scores, tile_lse, exact, row_error, row_norm,
                  [&](const ScanParams& params) { scan_cuda(params, call); });
      },
      py::arg("inputs"), py::kw_only(), py::arg("k"), py::arg("ids"), py::arg("scores"),
      py::arg("tile_lse"), py::arg("exact"), py::arg("row_error"), py::arg("row_norm"),
      py::arg("call"));

  m.def(
      "row_errors_cuda",
      [](const PassagesView& rounded, const PassagesView& exact, uintptr_t row_error,
         uintptr_t row_norm, const CudaCall& call) {
        py::gil_scoped_release release;
        row_errors_cuda({rounded, exact, 1, pointer<float>(row_error), pointer<float>(row_norm)},
                        call);
      },
      py::kw_only(), py::arg("rounded"), py::arg("exact"), py::arg("row_error"),
      py::arg("row_norm"), py::arg("call"));

  const auto draw = [](const ScanInputs& in, uintptr_t tile_lse, uintptr_t uniforms, int64_t draws,
                       uintptr_t ids, uintptr_t logp) {
    return DrawParams{in.queries,
                      in.passages,
                      in.exclude,
                      in.inv_temperature,
                      in.threads,
                      pointer<const float>(tile_lse),
                      pointer<const double>(uniforms),
                      draws,
                      pointer<int64_t>(ids),
                      pointer<float>(logp)};
  };
  m.def(
      "draw_cuda_scratch",
      [draw](const ScanInputs& in, int64_t draws) {
        return draw_cuda_scratch(draw(in, 0, 0, draws, 0, 0));
      },
      py::arg("inputs"), py::kw_only(), py::arg("draws"));
  m.def(
      "draw_cuda",
      [draw](const ScanInputs& in, uintptr_t tile_lse, uintptr_t uniforms, int64_t draws,
             uintptr_t ids, uintptr_t logp, const CudaCall& call) {
        py::gil_scoped_release release;
        draw_cuda(draw(in, tile_lse, uniforms, draws, ids, logp), call);
      },
      py::arg("inputs"), py::kw_only(), py::arg("tile_lse"), py::arg("uniforms"), py::arg("draws"),
      py::arg("ids"), py::arg("logp"), py::arg("call"));

  const auto forward = [](const ScanInputs& in, uintptr_t lse) {
    return LogPartitionParams{in.queries,         in.passages, in.exclude,
                              in.inv_temperature, in.threads,  pointer<float>(lse)};
  };
  m.def(
      "log_partition_cuda_scratch",
      [forward](const ScanInputs& in, int device) {
        return log_partition_cuda_scratch(forward(in, 0), device);
      },
      py::arg("inputs"), py::kw_only(), py::arg("device"));
  m.def(
      "log_partition_cuda",
      [forward](const ScanInputs& in, uintptr_t lse, const CudaCall& call) {
        py::gil_scoped_release release;
        log_partition_cuda(forward(in, lse), call);
      },
      py::arg("inputs"), py::kw_only(), py::arg("lse"), py::arg("call"));

  const auto backward = [](const ScanInputs& in, uintptr_t lse, uintptr_t grad,
                           uintptr_t gradient) {
    return LogPartitionBackwardParams{in.queries,
                                      in.passages,
                                      in.exclude,
                                      in.inv_temperature,
                                      in.threads,
                                      pointer<const float>(lse),
                                      pointer<const float>(grad),
                                      pointer<float>(gradient)};
  };
  m.def(
      "log_partition_backward_cuda_scratch",
      [backward](const ScanInputs& in) {
        return log_partition_backward_cuda_scratch(backward(in, 0, 0, 0));
      },
      py::arg("inputs"));
  m.def(
      "log_partition_backward_cuda",
      [backward](const ScanInputs& in, uintptr_t lse, uintptr_t grad, uintptr_t gradient,
                 const CudaCall& call) {
        py::gil_scoped_release release;
        log_partition_backward_cuda(backward(in, lse, grad, gradient), call);
      },
      py::arg("inputs"), py::kw_only(), py::arg("lse"), py::arg("grad"), py::arg("gradient"),
      py::arg("call"));
#endif
}

}  // namespace jsarag::bindings
