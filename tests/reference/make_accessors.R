# What lme4's and broom.mixed's accessors say of four models: writes accessors.json.
#
#     Rscript make_accessors.R [folder with data/ and models.json]
#
# Needs R with lme4, broom.mixed, glmmTMB, numDeriv and jsonlite. glmer starts at the best estimates
# known (models.json) and searches their neighbourhood, with tolPwrss = 1e-13: left to itself it stops
# 1e-4 standard errors away. Long vectors are stored as head, tail, sum and sum of squares.
suppressMessages({library(lme4); library(broom.mixed); library(glmmTMB); library(jsonlite)})
options(digits = 15, contrasts = c("contr.treatment", "contr.treatment"))
arguments <- commandArgs(trailingOnly = TRUE)
folder <- if (length(arguments)) arguments[1] else "."
records <- fromJSON(file.path(folder, "models.json"), simplifyVector = FALSE)
names(records) <- vapply(records, `[[`, "", "id")

read_frame <- function(record) {
  factors <- record$factors
  frame <- read.csv(file.path(folder, "data", record$dataset), na.strings = "",
                    check.names = FALSE, colClasses = NA)
  strings <- read.csv(file.path(folder, "data", record$dataset), na.strings = "",
                      check.names = FALSE, colClasses = "character")
  for (name in names(factors)) frame[[name]] <- factor(strings[[name]], unlist(factors[[name]]))
  frame
}

fit_tightly <- function(formula, data, gaussian, weights_name, record) {
  environment(formula) <- environment()
  weights <- if (is.null(weights_name)) list() else list(weights = as.name(weights_name))
  if (gaussian)
    return(do.call(lmer, c(list(formula, data = quote(data), REML = FALSE, control = lmerControl(
      optimizer = "bobyqa", optCtrl = list(rhoend = 1e-11, maxfun = 1e5))), weights)))
  control <- glmerControl(optimizer = "bobyqa", tolPwrss = 1e-13,
                          optCtrl = list(rhobeg = 1e-6, rhoend = 1e-10, maxfun = 1e5))
  start <- list(theta = unlist(record$theta), fixef = unlist(record$fixef))
  do.call(glmer, c(list(formula, data = quote(data), family = quote(binomial), control = control,
                        start = start), weights))
}

# The covariance of all random effects with the parameters' uncertainty in it: TMB's joint precision,
# its outer Hessian the Richardson-extrapolated Jacobian of the exact gradient.
joint_covariance <- function(model) {
  object <- model$obj
  par <- model$fit$par
  for (step in 1:3) {
    hessian <- numDeriv::jacobian(object$gr, par)
    par <- par - solve(hessian, as.vector(object$gr(par)))
  }
  hessian <- numDeriv::jacobian(object$gr, par)
  object$fn(par)
  report <- TMB::sdreport(object, par.fixed = par, hessian.fixed = (hessian + t(hessian)) / 2,
                          getJointPrecision = TRUE)
  whole <- as.matrix(solve(report$jointPrecision))
  list(covariance = whole[rownames(whole) == "b", rownames(whole) == "b"],
       component_se = component_errors(model, par, solve(hessian)),
       gradient = max(abs(object$gr(par))))
}

# Delta-method standard errors of standard deviations and correlations (lower triangle by columns),
# and of sigma.
component_errors <- function(model, par, covariance) {
  object <- model$obj
  whole <- object$env$last.par.best
  components <- function(theta) {
    whole[names(whole) == "theta"] <- theta
    report <- object$report(whole)
    unlist(Map(function(sd, corr) {
      both <- as.matrix(corr)
      diag(both) <- sd
      both[lower.tri(both, diag = TRUE)]
    }, report$sd, report$corr))
  }
  of <- function(name) which(names(par) == name)
  slopes <- numDeriv::jacobian(components, par[of("theta")])
  se <- sqrt(diag(slopes %*% covariance[of("theta"), of("theta")] %*% t(slopes)))
  if (!length(of("betad"))) return(se)
  log_sigma <- log(sigma(model)) / model$fit$par[["betad"]]  # 1/2: betad is the log of a variance
  c(se, exp(log_sigma * par[of("betad")]) * abs(log_sigma) *
      sqrt(covariance[of("betad"), of("betad")]))
}

blocks_of <- function(covariance, sizes) {  # sizes: per term (effects, levels)
  at <- 0
  lapply(sizes, function(size) {
    k <- size[1]
    blocks <- lapply(seq_len(size[2]), function(level) {
      rows <- at + (level - 1) * k + seq_len(k)
      unname(covariance[rows, rows, drop = FALSE])
    })
    at <<- at + k * size[2]
    blocks
  })
}

ends <- function(x) {
  x <- unname(as.vector(x))
  list(size = length(x), head = I(head(x, 6)), tail = I(tail(x, 6)), sum = sum(x),
       squares = sum(x^2))
}
columns_of <- function(frame) lapply(as.list(as.data.frame(frame, stringsAsFactors = FALSE)),
                                     function(x) I(if (is.factor(x)) as.character(x) else unname(x)))
frames_of <- function(frames) lapply(frames, function(frame)
  list(levels = I(rownames(frame)), columns = I(colnames(frame)),
       values = unname(as.matrix(frame))))
arrays_of <- function(array) lapply(seq_len(dim(array)[3]), function(l)
  matrix(array[, , l], dim(array)[1]))

# Leverages of the linearised model given theta: the diagonal of the hat matrix of beta and u. (What
# lme4 gives for a GLMM leaves the working weights out.)
leverages <- function(model) {
  w <- as.vector(model@resp$sqrtXwt)
  if (!isGLMM(model)) w <- sqrt(weights(model))
  zl <- as.matrix(t(getME(model, "Lambdat") %*% getME(model, "Zt"))) * w
  rows <- cbind(zl, getME(model, "X") * w)
  penalty <- diag(c(rep(1, ncol(zl)), rep(0, ncol(getME(model, "X")))))
  rowSums((rows %*% solve(crossprod(rows) + penalty)) * rows)
}

describe <- function(id, formula, gaussian, weights_name = NULL, refitted = NULL) {
  record <- records[[id]]
  data <- read_frame(record)
  model <- fit_tightly(formula, data, gaussian, weights_name, record)
  ranefs <- ranef(model, condVar = TRUE)
  tmb_formula <- if (is.null(weights_name)) formula else
    update(formula, cbind(incidence, size - incidence) ~ .)
  tmb <- glmmTMB(tmb_formula, data, family = if (gaussian) gaussian() else binomial())
  joint <- joint_covariance(tmb)
  sizes <- lapply(names(getME(model, "p_i")), function(term)
    c(getME(model, "p_i")[[term]], getME(model, "q_i")[[term]] / getME(model, "p_i")[[term]]))
  augmented <- suppressWarnings(as.data.frame(augment(model), check.names = FALSE))
  hat <- leverages(model)
  pearson <- residuals(model, type = "pearson")
  cook <- (pearson / (1 - hat))^2 * hat / (sigma(model)^2 * length(fixef(model)))
  lambda <- as.matrix(getME(model, "Lambda"))
  out <- list(
    id = id, formula = deparse(formula), versions = list(
      R = as.character(getRversion()), lme4 = as.character(packageVersion("lme4")),
      broom.mixed = as.character(packageVersion("broom.mixed")),
      glmmTMB = as.character(packageVersion("glmmTMB"))),
    logLik = as.numeric(logLik(model)),
    coef = frames_of(coef(model)), ranef = frames_of(ranefs),
    condVar = lapply(ranefs, function(frame) arrays_of(attr(frame, "postVar"))),
    joint = setNames(blocks_of(joint$covariance, sizes), names(ranefs)),
    joint_gradient = joint$gradient, component_se = I(joint$component_se),
    df_residual = df.residual(model), extractAIC = extractAIC(model), isGLMM = isGLMM(model),
    terms = I(attr(terms(model), "term.labels")), model_frame = I(names(model.frame(model))),
    weights = ends(weights(model)), offset = ends(getME(model, "offset")),
    getME = list(
      X = list(dim = dim(getME(model, "X")), sums = unname(colSums(getME(model, "X"))),
               squares = sum(getME(model, "X")^2)),
      Z = list(dim = dim(getME(model, "Z")), sums = ends(Matrix::colSums(getME(model, "Z"))),
               first = unname(getME(model, "Z")[1, ]), last = unname(
                 getME(model, "Z")[nrow(getME(model, "Z")), ])),
      Lambda = list(dim = dim(lambda), diagonal = ends(diag(lambda)), sum = sum(lambda),
                    corner = unname(lambda[1:4, 1:4])),
      y = ends(getME(model, "y")), mu = ends(getME(model, "mu")), u = ends(getME(model, "u")),
      b = ends(getME(model, "b")), theta = I(unname(getME(model, "theta"))),
      theta_names = I(names(getME(model, "theta"))), beta = I(getME(model, "beta")),
      lower = I(unname(ifelse(is.finite(getME(model, "lower")), getME(model, "lower"), -1e300))),
      Gp = I(getME(model, "Gp")), Lind = ends(getME(model, "Lind")),
      cnms = lapply(getME(model, "cnms"), I),
      flist = lapply(as.list(getME(model, "flist")), function(f)
        list(levels = I(levels(f)), head = I(as.character(head(f, 6))))),
      n = getME(model, "n"), N = getME(model, "N"), p = getME(model, "p"), q = getME(model, "q"),
      n_rtrms = getME(model, "n_rtrms"), n_rfacs = getME(model, "n_rfacs"),
      k = getME(model, "k"), m = getME(model, "m"), sigma = getME(model, "sigma"),
      p_i = I(unname(getME(model, "p_i"))), q_i = I(unname(getME(model, "q_i"))),
      l_i = I(unname(getME(model, "l_i"))), m_i = I(unname(getME(model, "m_i")))),
    tidy = lapply(list(fixed = "fixed", ran_pars = "ran_pars", ran_vals = "ran_vals"),
      function(effects) columns_of(tidy(model, effects = effects, conf.int = TRUE,
                                        conf.level = 0.9))),
    exponentiated = columns_of(tidy(model, effects = "fixed", conf.int = TRUE,
                                    exponentiate = TRUE)),
    glance = columns_of(glance(model)),
    augment = list(columns = I(names(augmented)),
      values = lapply(augmented[startsWith(names(augmented), ".")], ends),
      hat = ends(hat), cooksd = ends(cook)))
  if (!is.null(refitted)) {
    y <- refitted(data)
    control <- glmerControl(optimizer = "bobyqa", tolPwrss = 1e-13,
                            optCtrl = list(rhoend = 1e-9, maxfun = 1e5))
    again <- if (gaussian) refit(model, y) else
      refit(model, y / data[[weights_name]], control = control)
    out$refit <- list(y = I(y), logLik = as.numeric(logLik(again)), theta = I(unname(
      getME(again, "theta"))), fixef = I(unname(fixef(again))))
  }
  out
}

found <- list(
  describe("cbpp_logit", incidence / size ~ period + (1 | herd), FALSE, "size",
           function(d) pmin(rev(d$incidence), d$size)),
  describe("verbagg_crossed", y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item), FALSE),
  describe("sleepstudy_slope", Reaction ~ Days + (Days | Subject), TRUE, NULL,
           function(d) 1000 * log(d$Reaction)),
  describe("contraception_slope", use ~ age + I(age^2) + urban + livch + (urban | district), FALSE))

# update.formula: what R makes of it
updates <- list(
  c("y ~ x + (1 | g)", ". ~ . + z"), c("y ~ x + (1 | g)", ". ~ . - x"),
  c("y ~ a * b + (1 | g) + offset(o) - 1", ". ~ . - a:b + z"),
  c("y ~ a * b + (1 | g) + offset(o) - 1", "log(.) ~ ."),
  c("y ~ a * b + (1 | g) + offset(o) - 1", ". ~ . + 1 - (1 | g) + (x | g)"),
  c("y ~ x + (1 | g)", ". ~ . + (1 | g)"), c("y ~ x + (1 | g)", "~ . + (0 + x | g)"),
  c("s / t ~ x + (1 | g)", ". ~ . + I(x^2)"), c("y ~ a * c + b + (1 | g)", ". ~ . - a:c - c"),
  c("y ~ x + (1 | g)", "z ~ w + (x || h)"), c("y ~ a + b + (1 | g)", ". ~ . + a:b"),
  c("y ~ a * b * c + (1 | g)", ". ~ . - a:b:c"), c("y ~ x + (1 | a/b)", ". ~ . - (1 | a/b) + (1 | a)"),
  c("y ~ x + offset(o) + (1 | g)", ". ~ . + log(w)"), c("y ~ a + (1 | g)", ". ~ . - a + 0"))
found_updates <- lapply(updates, function(pair) list(old = pair[1], update = pair[2], new = paste(
  deparse(update(as.formula(pair[1]), as.formula(pair[2])), width.cutoff = 500), collapse = " ")))

write_json(list(models = found, updates = found_updates), file.path(folder, "accessors.json"),
           digits = NA, auto_unbox = TRUE, null = "null", na = "null")
