#include "jsarag/passage_logp.h"

#include "bindings/ops.h"

namespace py = pybind11;

namespace jsarag::bindings {
namespace {

// Both directions read the same things; Python passes them as one tuple of numbers.
struct Inputs {
  int64_t tokens, width, vocabulary, sequences;
  bool bf16;
  uintptr_t hidden;
  int64_t hidden_stride;
  uintptr_t weight;
  int64_t weight_stride;
  uintptr_t bias, targets, cu_seqlens;
  int64_t ignore_index;
  float logit_scale, softcap;

  PassageLogpInputs read() const {
    PassageLogpInputs in;
    in.tokens = tokens;
    in.width = width;
    in.vocabulary = vocabulary;
    in.sequences = sequences;
    in.bf16 = bf16;
    in.hidden = pointer<const void>(hidden);
    in.hidden_stride = hidden_stride;
    in.weight = pointer<const void>(weight);
    in.weight_stride = weight_stride;
    in.bias = pointer<const void>(bias);
    in.targets = pointer<const int64_t>(targets);
    in.cu_seqlens = pointer<const int64_t>(cu_seqlens);
    in.ignore_index = ignore_index;
    in.logit_scale = logit_scale;
    in.softcap = softcap;
    return in;
  }
};

PassageLogpParams forward_params(const Inputs& inputs, uintptr_t logp, uintptr_t counted,
                                 uintptr_t lse) {
  PassageLogpParams params;
  params.in = inputs.read();
  params.logp = pointer<float>(logp);
  params.counted = pointer<int32_t>(counted);
  params.lse = pointer<double>(lse);
  return params;
}

void forward(const Inputs& inputs, uintptr_t logp, uintptr_t counted, uintptr_t lse, int threads) {
  passage_logp_cpu(forward_params(inputs, logp, counted, lse), threads);
}

void backward(const Inputs& inputs, uintptr_t lse, uintptr_t grad_logp, uintptr_t grad_hidden,
              uintptr_t grad_weight, uintptr_t grad_bias, int threads) {
  PassageLogpBackwardParams params;
  params.in = inputs.read();
  params.lse = pointer<const double>(lse);
  params.grad_logp = pointer<const float>(grad_logp);
  params.grad_hidden = pointer<void>(grad_hidden);
  params.grad_weight = pointer<void>(grad_weight);
  params.grad_bias = pointer<void>(grad_bias);
  passage_logp_backward_cpu(params, threads);
}

}  // namespace

void bind_passage_logp(py::module_& m) {
  announce(m, "CPU_OPS", "passage_logp");
  py::class_<Inputs>(m, "PassageLogpInputs")
      .def(py::init([](int64_t tokens, int64_t width, int64_t vocabulary, int64_t sequences,
                       bool bf16, uintptr_t hidden, int64_t hidden_stride, uintptr_t weight,
                       int64_t weight_stride, uintptr_t bias, uintptr_t targets,
                       uintptr_t cu_seqlens, int64_t ignore_index, float logit_scale,
                       float softcap) {
             return Inputs{tokens,  width,         vocabulary,   sequences,     bf16,
                           hidden,  hidden_stride, weight,       weight_stride, bias,
                           targets, cu_seqlens,    ignore_index, logit_scale,   softcap};
           }),
           py::kw_only(), py::arg("tokens"), py::arg("width"), py::arg("vocabulary"),
           py::arg("sequences"), py::arg("bf16"), py::arg("hidden"), py::arg("hidden_stride"),
           py::arg("weight"), py::arg("weight_stride"), py::arg("bias"), py::arg("targets"),
           py::arg("cu_seqlens"), py::arg("ignore_index"), py::arg("logit_scale"),
           py::arg("softcap"));
  m.def("passage_logp_cpu", &forward, py::call_guard<py::gil_scoped_release>());
  m.def("passage_logp_backward_cpu", &backward, py::call_guard<py::gil_scoped_release>());
#if JSARAG_WITH_CUDA
  announce(m, "CUDA_OPS", "passage_logp");
  m.def("passage_logp_cuda_scratch", [](const Inputs& inputs, int device) {
    return passage_logp_cuda_scratch(inputs.read(), device);
  });
  m.def(
      "passage_logp_cuda",
      [](const Inputs& inputs, uintptr_t logp, uintptr_t counted, uintptr_t lse,
         const CudaCall& call) {
        passage_logp_cuda(forward_params(inputs, logp, counted, lse), call);
      },
      py::call_guard<py::gil_scoped_release>());
  m.def("passage_logp_gradient_cuda_scratch",
        [](const Inputs& inputs) { return passage_logp_gradient_cuda_scratch(inputs.read()); });
  m.def(
      "passage_logp_gradient_cuda",
      [](const Inputs& inputs, uintptr_t lse, uintptr_t grad_logp, int64_t first_word,
         int64_t words, uintptr_t gradient, int64_t stride, const CudaCall& call) {
        PassageLogpGradientParams params;
        params.in = inputs.read();
        params.lse = pointer<const double>(lse);
        params.grad_logp = pointer<const float>(grad_logp);
        params.first_word = first_word;
        params.words = words;
        params.gradient = pointer<void>(gradient);
        params.stride = stride;
        passage_logp_gradient_cuda(params, call);
      },
      py::arg("inputs"), py::kw_only(), py::arg("lse"), py::arg("grad_logp"), py::arg("first_word"),
      py::arg("words"), py::arg("gradient"), py::arg("stride"), py::arg("call"),
      py::call_guard<py::gil_scoped_release>());
#endif
}

}  // namespace jsarag::bindings
