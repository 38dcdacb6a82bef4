# Fits by glmmTMB with formulas for zeros and dispersion: writes parts.json.
#
#     Rscript make_parts.R [folder with data/]
#
# Needs R with glmmTMB and jsonlite. Coefficients of the dispersion are glmmTMB's own: of log sigma^2
# for the gaussian family, of log theta for nbinom2, of log shape for Gamma (what `betad` is there).
suppressMessages({library(glmmTMB); library(jsonlite)})
options(digits = 15)
arguments <- commandArgs(trailingOnly = TRUE)
folder <- if (length(arguments)) arguments[1] else "."
read <- function(name, ...) {
  frame <- read.csv(file.path(folder, "data", paste0(name, ".csv")))
  for (column in c(...)) frame[[column]] <- factor(frame[[column]])
  frame
}
salamanders <- read("salamanders", "site", "spp", "mined")
cbpp <- read("cbpp", "herd", "period")
sleep <- read("sleepstudy", "Subject")
cake <- read("cake", "replicate", "recipe")

fit <- function(id, dataset, data, family, formula, ziformula = "~0", dispformula = "~1") {
  model <- glmmTMB(as.formula(formula), data, family = family, ziformula = as.formula(ziformula),
                   dispformula = as.formula(dispformula),
                   control = glmmTMBControl(optCtrl = list(iter.max = 2000, eval.max = 4000)))
  tables <- summary(model)$coefficients
  part <- function(name) {
    table <- tables[[name]]
    if (is.null(table)) return(NULL)
    list(estimate = as.list(setNames(table[, 1], rownames(table))),
         se = as.list(setNames(table[, 2], rownames(table))))
  }
  parts <- list(cond = part("cond"), zi = part("zi"))
  if (dispformula != "~1") parts$disp <- part("disp")
  list(id = id, dataset = dataset, family = if (is.character(family)) family else family$family,
       formula = formula, ziformula = ziformula, dispformula = dispformula,
       engine = paste("glmmTMB", packageVersion("glmmTMB")), logLik = as.numeric(logLik(model)),
       parts = parts, sigma = sigma(model),
       response = head(predict(model, type = "response"), 10),
       conditional = head(predict(model, type = "conditional"), 10),
       zprob = if (ziformula == "~0") NULL else head(predict(model, type = "zprob"), 10))
}

count <- "count ~ mined + (1 | site)"
fits <- list(
  fit("zi_poisson", "salamanders", salamanders, "poisson", count, "~ spp"),
  fit("zi_nbinom2", "salamanders", salamanders, "nbinom2", count, "~ mined"),
  fit("disp_nbinom2", "salamanders", salamanders, "nbinom2", count, dispformula = "~ mined"),
  fit("zi_disp_nbinom2", "salamanders", salamanders, "nbinom2", count, "~ 1", "~ spp"),
  fit("hurdle_nbinom2", "salamanders", salamanders, "truncated_nbinom2", count, "~ mined"),
  fit("zi_binomial", "cbpp", cbpp, "binomial",
      "cbind(incidence, size - incidence) ~ period + (1 | herd)", "~ 1"),
  fit("disp_gaussian", "sleepstudy", sleep, "gaussian", "Reaction ~ Days + (1 | Subject)",
      dispformula = "~ Days"),
  fit("disp_gamma", "cake", cake, Gamma(link = "log"), "angle ~ recipe + ctemp + (1 | replicate)",
      dispformula = "~ recipe"))
write_json(fits, file.path(folder, "parts.json"), digits = NA, auto_unbox = TRUE, pretty = TRUE,
           null = "null")
