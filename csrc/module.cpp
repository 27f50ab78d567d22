// Registration only: binding.cpp converts the arguments.
#include "binding.hpp"
#include "watch.hpp"

PYBIND11_MODULE(_native, m) {
    namespace py = pybind11;
    using namespace pdepth::binding;
    m.doc() = "The compiled CPU backend; pdepth.backends.cpu calls it.";
    py::class_<pdepth::Watch>(
        m, "Watch", "Memory that may be a mapped file, watched until `close`; see csrc/watch.hpp.")
        .def(py::init<std::vector<pdepth::Range>>(), py::arg("ranges"))
        .def_property_readonly("cut", &pdepth::Watch::cut)
        .def("close", &pdepth::Watch::close);
    py::class_<HeldSupport>(m, "Support", "Rows of a support; see csrc/support.hpp.")
        .def(py::init(&support_of), py::arg("rows"), py::kw_only(), py::arg("metric"),
             py::arg("kept_bytes"), py::arg("norms").noconvert() = py::none())
        .def_static("restored", &support_with, py::arg("rows"), py::kw_only(), py::arg("metric"),
                    py::arg("kept_bytes"), py::arg("packing"),
                    py::arg("norms").noconvert() = py::none())
        .def("packing", &packing_of)
        .def_property_readonly("packed", [](const HeldSupport& held) { return held.packed; })
        .def("followed_by", &support_after, py::arg("rows"),
             py::arg("norms").noconvert() = py::none())
        .def("keep", [](HeldSupport& held, int64_t bytes) { held.support->kept_bytes = bytes; },
             py::arg("bytes"))
        .def_property_readonly("array", [](const HeldSupport& held) { return held.array; })
        .def_property_readonly("has_leaves", &has_leaves)
        .def_property_readonly("nbytes", &nbytes_of);
    m.def("levels", &levels, "Compiled levels, best last, and whether this machine runs each.");
    m.def("filter_stages", &filter_stages,
          "A level's filter stages as pdepth.certify.FilterStage takes them, differences last.",
          py::arg("level"));
    m.def("constants", &constants, "Of the bound; those of pdepth.certify.");
    m.def("image_constants", &image_constants, "Of the bound on images; those of pdepth.certify.");
    m.def("filter_scores", &filter_scores,
          "Every score of one filter stage, and the bound on the true one.", py::arg("support"),
          py::arg("queries"), py::arg("level"), py::arg("stage"), py::arg("centre") = py::none(),
          py::arg("scale") = 1.0, py::arg("inner_products") = false);
    m.def("image_scores", &image_scores,
          "Every score of the images of rows, and the cut at each of `distances`.",
          py::arg("support"), py::arg("queries"), py::arg("level"), py::arg("directions"),
          py::kw_only(), py::arg("departure"), py::arg("floor"), py::arg("scale"),
          py::arg("distances"));
    m.def("leaf_scores", &leaf_scores,
          "Rows of a support in leaves, and the scores of each leaf's box and of each row in it.",
          py::arg("support"), py::arg("queries"), py::arg("level"));
    m.def("arithmetic", &arithmetic,
          "Sets this thread's floating-point environment: the default one (round to nearest,\n"
          "subnormal numbers kept), or one that a call returned. Returns the one before.",
          py::arg("environment") = py::none());
    m.def("find_norms", &find_norms,
          "Writes each row's factor and norm; returns the first row of zeros, or -1.",
          py::arg("array"), py::arg("type"), py::arg("norms").noconvert(), py::arg("level"),
          py::arg("threads"));
    m.def("first_not_finite", &first_not_finite,
          "The first row that holds a NaN or an infinity, or -1.", py::arg("array"),
          py::arg("type"), py::arg("level"), py::arg("threads"));
    m.def("count_votes", &count_votes,
          "Counts the votes of lists of neighbours for each of `ks`, into the arrays passed; see\n"
          "csrc/count.hpp.",
          py::kw_only(), py::arg("codes"), py::arg("classes"), py::arg("rows"), py::arg("weights"),
          py::arg("ks"), py::arg("votes").noconvert(), py::arg("tied").noconvert(),
          py::arg("counts"), py::arg("slack"), py::arg("threads"));
    m.def("merge_lists", &merge_lists, "Lists of candidates as one; see csrc/merge.hpp.",
          py::arg("parts"), py::kw_only(), py::arg("k"), py::arg("width"), py::arg("threads"));
    m.def("prove_votes", &prove_votes,
          "Writes the votes that lists prove, and which are open; returns the lists of these, and\n"
          "which of their distances decide most.",
          py::arg("lists"), py::kw_only(), py::arg("codes"), py::arg("classes"), py::arg("k"),
          py::arg("asked"), py::arg("votes").noconvert(), py::arg("tied").noconvert(), py::arg("open").noconvert(),
          py::arg("threads"));
    m.def("settle_pairs", &settle_pairs, "Writes the float64 distances of pairs of rows.",
          py::arg("support"), py::arg("support_norms").noconvert(), py::arg("queries"),
          py::arg("query_norms").noconvert(), py::kw_only(), py::arg("query_rows"), py::arg("rows"),
          py::arg("distances").noconvert(), py::arg("level"), py::arg("threads"));
    m.def("run", &run,
          "Answers all queries at each layer, into the arrays passed. With `target`, a vote is that\n"
          "class or -1. Beside votes, distances and rows are of any number of the nearest, up to k.\n"
          "`first_stage` names the filter stage to begin with; None: a rule chooses.\n"
          "Returns the seconds of all threads for float64 distances.",
          py::kw_only(), py::arg("layers"), py::arg("codes"), py::arg("classes"), py::arg("k"),
          py::arg("exclude_self"), py::arg("query_rows"), py::arg("queries"), py::arg("target"),
          py::arg("votes").noconvert(), py::arg("tied").noconvert(), py::arg("counts").noconvert(),
          py::arg("distances").noconvert(), py::arg("rows").noconvert(),
          py::arg("upper").noconvert(), py::arg("within"),
          py::arg("level"), py::arg("first_stage"), py::arg("threads"), py::arg("held_bytes"),
          py::arg("pairs"), py::arg("progress"));
}
